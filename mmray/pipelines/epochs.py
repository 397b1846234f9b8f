"""The metrics of every epoch: one file per fit while it is trained, OUT/epochs.parquet when the run ends."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from mmray import storage
from mmray.fusion.fits import Fit
from mmray.tables import ledger
from mmray.tables.store import DamagedError, Store

log = logging.getLogger(__name__)

Row = dict[str, Any]
COLUMNS = (
    "fold", "network", "epoch", "train_loss", "validation_loss", "validation_accuracy", "learning_rate", "seconds",
    "workers", "key",
)  # fmt: skip


def put(out: str, fit: Fit, rows: list[Row], over: bool) -> None:
    """Write the epochs of a fit so far, in one step; ``over``: there will be no more."""
    text = json.dumps({"fit": asdict(fit), "rows": rows, "over": over})
    storage.put(storage.join(out, "train", "epochs", f"{fit.fold}-{fit.network}-{fit.key}.json"), text.encode())


class Board:
    """What rank 0 has written so far, as the driver sees it."""

    def __init__(self, out: str) -> None:
        self._folder = storage.join(out, "train", "epochs")
        self._tags: dict[str, str] = {}

    def news(self) -> Iterator[tuple[Fit, list[Row], bool]]:
        """Yield fits that have more rows than when last looked at, their rows, and whether that is all."""
        for entry in storage.files(self._folder, ".json"):
            if self._tags.get(entry.uri) != entry.tag:
                self._tags[entry.uri] = entry.tag
                about = json.loads(storage.read_bytes(entry.uri))
                yield Fit(**about["fit"]), about["rows"], about["over"]


def gather(out: Store, fits: Sequence[Fit]) -> pl.DataFrame:
    """Put what was written of these fits into OUT/epochs.parquet; rows of what is trained anew replace older ones."""
    found = [row for fit, rows, _ in Board(out.uri).news() if fit in fits for row in rows]
    new = pl.DataFrame(found, infer_schema_length=None)
    try:
        kept = out.read("epochs.parquet")
    except DamagedError as error:  # no reason to lose what was trained
        log.warning("%s; it is written anew", error)
        kept = None
    old = ledger.as_polars(kept) if kept is not None else pl.DataFrame()
    if new.height and old.height:
        old = old.join(new.select("fold", "network").unique(), on=["fold", "network"], how="anti")
    whole = pl.concat([one for one in (old, new) if one.height] or [old], how="diagonal_relaxed")
    if new.height:
        first = [name for name in COLUMNS if name in whole.columns]
        whole = whole.select(*first, pl.exclude(first)).sort("fold", "network", "epoch")
        out.write(whole.to_arrow(), "epochs.parquet")
    return whole
