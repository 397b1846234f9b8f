"""The tables: what their columns are, and how they are read, appended and kept true."""

import pyarrow  # noqa: F401 — before polars: the other way round some processes abort when they exit
