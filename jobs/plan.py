"""Probe a corpus and predict a run: what `ray job submit -- python jobs/plan.py CONFIG ...` runs. Same words as `mmray plan`."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["plan", *sys.argv[1:]]))
