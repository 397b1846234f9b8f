"""Extract features: what `ray job submit -- python jobs/extract.py CONFIG ...` runs. Same words as `mmray extract`."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["extract", *sys.argv[1:]]))
