"""The runs. The only rooms that import ray."""
