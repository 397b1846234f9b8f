"""The tables: what their columns are, and how they are read, appended and kept true."""
