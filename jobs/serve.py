"""Serve, as a Ray job: the words of `mmray serve`."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
