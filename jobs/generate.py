"""Make pictures and sounds: what `ray job submit -- python jobs/generate.py CONFIG ...` runs.

Same words as `mmray generate`.
"""

import sys

from mmray.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
