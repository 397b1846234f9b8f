"""The fault suite: every fault that a run must survive, and an oracle that compares with an undisturbed run.

``python -m tests.faults`` (`make faults`) runs all of them and prints the table; pytest runs a subset.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.table import Fault

KINDS = ("interrupts", "deaths", "sources", "disks", "object_storage", "leases", "verbs", "damage")


def everything() -> "list[Fault]":
    """Return every fault, by kind."""
    from tests.faults.table import FAULTS

    for kind in KINDS:
        importlib.import_module(f"tests.faults.{kind}")
    return list(FAULTS.values())
