"""Compare classifiers over embeddings: `ray job submit -- python jobs/study.py CONFIG ...` is `mmray study`."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))
