"""Adopt vectors of another tool, as a Ray job: the words of `mmray import`."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["import", *sys.argv[1:]]))
