"""Probe a corpus and predict a run, as a Ray job: the words of `mmray plan`."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))
