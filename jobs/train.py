"""Train fusion networks or text classifiers: `ray job submit -- python jobs/train.py CONFIG ...` is `mmray train`."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
