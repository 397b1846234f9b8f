"""``python -m mmray``: the ``mmray`` command."""

from mmray.cli import run

if __name__ == "__main__":
    run()
