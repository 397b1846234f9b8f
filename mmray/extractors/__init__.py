"""One file per model: a light frozen configuration whose `load` gives the heavy function."""
