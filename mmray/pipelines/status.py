"""The account of a store, at any time, from its tables alone; and putting quarantined segments back in the queue."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import provenance, storage
from mmray.config import nearest
from mmray.errors import ConfigError, Reason
from mmray.pipelines import plan
from mmray.pipelines.state import changed
from mmray.tables import lease, ledger
from mmray.tables.store import DamagedError, Store, open_store

RECORDED = ("id", "as", "kind", "source", "origin", "reads_text", "whole_sample")  # what readers of a store need


@dataclass(frozen=True, slots=True)
class View:
    """Everything a store says of itself."""

    store: Store
    extractors: list[dict[str, Any]]
    samples: int
    expected: pl.DataFrame
    absent: int  # samples whose source cannot be seen now
    without: pl.DataFrame  # sample_id, extractor: nothing in the column it reads, and not in an import
    rows: pl.DataFrame

    @property
    def statuses(self) -> pl.DataFrame:
        """Return the status and reason of every (sample, extractor) that is planned or has nothing to do."""
        skipped = self.without.with_columns(status=pl.lit("skipped"), reason=pl.lit(str(Reason.NO_SOURCE)))
        return pl.concat([ledger.statuses(self.rows, self.expected), skipped])


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What of a task the look at sources needs, from provenance."""

    id: str
    source: str
    origin: str | None
    reads_text: bool
    whole_sample: bool


def view(store: Store) -> View:
    """Read a store: its extractors, the keys its ledger should have for the sources as they are now, its ledger."""
    names = [entry.uri.rpartition("/")[2] for entry in storage.files(store.path("provenance"), ".json")]
    extractors = [one for name in names if (one := provenance_of(store, name)) is not None]
    samples = store.read("manifest.parquet")
    if samples is None or not extractors:
        raise ConfigError(f"{store.uri}: nothing was extracted into this store yet")
    imported = [one["id"] for one in extractors if one["source"] is None]
    own = [one for one in extractors if one["source"] is not None]
    recorded = [_Recorded(*(one[field.name] for field in fields(_Recorded))) for one in own]
    present = [one for one in recorded if one.origin or one.source in samples.column_names]
    segments = plan.read_segments(store)
    _, media = plan.sources(samples, present, segments)
    rows = ledger.read(store)
    # What was imported has no source to look at again: its rows are what was asked for.
    expected = rows.filter(pl.col("extractor").is_in(imported)).select(*ledger.KEY, "input")
    if present:
        planned = plan.expected(present, media, segments, rows)
        expected = pl.concat([expected, planned.select(*ledger.KEY, "input")])
    without = _without_source(samples, extractors).join(rows, on=["sample_id", "extractor"], how="anti")
    expected = expected.join(without, on=["sample_id", "extractor"], how="anti")
    absent = media.filter("absent")["sample_id"].n_unique()
    return View(store, extractors, samples.num_rows, expected, absent, without, rows)


def provenance_of(store: Store, name: str) -> dict[str, Any] | None:
    """Read the provenance of an extractor; None where it is not there, DamagedError where it lacks something."""
    about = store.read_json("provenance", name)
    if about is not None and (lacking := [key for key in RECORDED if key not in about]):
        raise DamagedError(store.path("provenance", name), f"it lacks {', '.join(lacking)}")
    return about


def _without_source(samples: pa.Table, extractors: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Return (sample_id, extractor) where the column that it, or the extractor it reads, reads is empty.

    What was imported reads no column: all samples.
    """
    known = {one["id"]: one for one in extractors}
    frames = [pl.DataFrame(schema={"sample_id": pl.String, "extractor": pl.String})]
    for one in extractors:
        first = one
        while first["origin"]:
            first = known[first["origin"]]
        nothing = samples
        if first["source"] in samples.column_names:
            nothing = samples.filter(samples[first["source"]].is_null())
        ids = ledger.as_polars(nothing.select(["sample_id"]))
        frames.append(ids.with_columns(extractor=pl.lit(one["id"])))
    return pl.concat(frames)


def status(uri: str) -> dict[str, Any]:
    """Return the account of a store: per extractor ok, partial, failed, skipped, pending and the reasons.

    ``changed``: samples whose source changed, as found by the last run or since. ``throughput``: seconds of medium per
    second of work; ``eta_s``: for what is pending, at the pace of the last run (None where unknown).
    """
    return account(view(open_store(uri)))


def account(seen: View) -> dict[str, Any]:
    """Return what ``status`` says of a store that was read."""
    ids = [one["id"] for one in seen.extractors]
    accounts = ledger.account(seen.statuses, ids, seen.samples)
    last = _last_run(seen)
    now = changed(seen.expected, seen.rows)
    result: dict[str, Any] = {
        "run_id": last.get("run_id"),
        "samples": seen.samples,
        "accounts": accounts,
        "changed": now + int(last.get("changed", 0)),
        "changed_now": now,
        "absent": seen.absent,
        "nothing_to_do": all(counts["pending"] == 0 for counts in accounts.values()),
        "seconds": last.get("seconds"),
        "names": {one["id"]: one["as"] for one in seen.extractors},
        "running": lease.holder(seen.store),
    }
    result["adds_up"] = ledger.adds_up(accounts, seen.samples)
    return result | _pace(seen.rows, accounts)


def _last_run(seen: View) -> dict[str, Any]:
    """Return the account of the run that committed last; run ids do not tell, where the clock was set back."""
    names = [entry.uri.rpartition("/")[2] for entry in storage.files(seen.store.path("runs"), ".json")]
    committed = [f"{run_id}.json" for run_id in _runs(seen.rows)]
    last = next((name for name in reversed(committed) if name in names), names[-1] if names else None)
    return (seen.store.read_json("runs", last) or {}) if last else {}


def _runs(rows: pl.DataFrame) -> list[str]:
    """Return the runs that rows are of, the last to commit at the end."""
    return rows.sort("generation", "run_id")["run_id"].unique(maintain_order=True).to_list()


def _pace(rows: pl.DataFrame, accounts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return throughput and ETA from the rows of the run that wrote last."""
    if rows.is_empty():
        return {"throughput": None, "eta_s": None}
    recent = rows.filter(pl.col("run_id") == _runs(rows)[-1])
    work_s = float(recent.select(pl.sum_horizontal("decode_s", "model_s").sum()).item())
    first, latest = recent["at"].min(), recent["at"].max()
    assert isinstance(first, datetime)
    assert isinstance(latest, datetime)
    seconds = (latest - first).total_seconds()
    finished = recent.select("sample_id", "extractor").unique().height
    pending = sum(counts["pending"] for counts in accounts.values())
    eta_s = round(pending * seconds / finished, 1) if seconds > 0 and finished else None
    media_s = float(recent.group_by("sample_id", "segment").agg(pl.col("media_s").max())["media_s"].sum())
    return {"throughput": round(media_s / work_s, 2) if work_s else None, "eta_s": eta_s if pending else 0.0}


def retry(uri: str, reason: str) -> dict[str, Any]:
    """Put the segments that ended with a reason back in the queue; the next run takes them up.

    Rows they have stay, and do not count, until the next run replaces them.
    """
    if reason not in list(Reason):
        raise ConfigError(f"--reason {reason}: no such reason{nearest(reason, list(Reason))}")
    store = open_store(uri)
    run_id = provenance.new_run_id()
    with lease.hold(store, run_id) as held:
        rows = ledger.read(store)
        back = rows.filter((pl.col("reason") == reason) & pl.col("status").is_in(["failed", "partial", "skipped"]))
        if back.height:
            pending = back.with_columns(
                pl.lit("pending").alias("status"),
                pl.col("attempt") + 1,
                pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC")).alias("at"),
            )
            table: pa.Table = pending.to_arrow()
            ledger.append(store, table, run_id, 1, held)
    counts = dict(back["extractor"].value_counts().iter_rows())
    return {"run_id": run_id, "reason": reason, "segments": back.height, "extractors": counts}
