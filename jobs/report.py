"""Write a report of a store or a study: `ray job submit -- python jobs/report.py STORE -o FILE` is `mmray report`."""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
