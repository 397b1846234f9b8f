"""Search a store, as a Ray job: the words of `mmray search`."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
