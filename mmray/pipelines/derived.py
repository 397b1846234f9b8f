"""Extractors that read another extractor's output: `whisper.text`, `yolov7.objects`.

A derived extractor sees all rows of its source for one sample, in time order, as one text. Its ``input`` is the hash of
the ledger rows those came from, so that a source that is done again makes what derives from it pending.
"""

from collections.abc import Sequence

import polars as pl

from mmray import provenance
from mmray.errors import Reason
from mmray.tables import ledger, windows
from mmray.tables.store import Store

# What an extractor of a kind offers to others.
OUTPUTS = {"text": "text", "detections": "objects"}
VERSION = 1  # raised whenever the code changes the texts it makes: what reads them is then done again
ROW_BYTES = 1000  # of a segment of a transcript, a summary, or a name, roughly


def media(source: str, expected: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the sources (as of ``plan.sources``) that another extractor offers: its samples with nothing pending.

    ``expected``: the keys of that extractor. ``given`` and ``given_reason`` say what became of each sample; the texts
    are not read yet.
    """
    finished = ledger.done(rows, expected)
    statuses = ledger.statuses(rows, expected).filter(pl.col("status") != "pending")
    about = finished.join(rows.select(*ledger.KEY, "attempt", "run_id"), on=ledger.KEY).sort("sample_id", "segment")
    fields = ("segment", "input", "attempt", "run_id", "status", "rows")
    inputs = about.group_by("sample_id", maintain_order=True).agg(
        pl.concat_str(fields, separator="|", ignore_nulls=True).str.join(";").alias("about")
    )
    hashed = inputs.with_columns(
        pl.col("about").map_elements(lambda text: provenance.fingerprint([VERSION, text], 16), pl.String).alias("input")
    )
    null = pl.lit(None, pl.String)
    return statuses.join(hashed.select("sample_id", "input"), on="sample_id").select(
        "sample_id", "input", uri=null, text=null, offset_s=pl.lit(None, pl.Float64), limit_s=pl.lit(None, pl.Float64),
        source=pl.lit(source), reads_text=pl.lit(True), present=pl.lit(True), absent=pl.lit(False),
        given="status", given_reason="reason",
    )  # fmt: skip


def with_texts(store: Store, origins: dict[str, str], pending: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Fill in the ``text`` of pending keys that read another extractor; ``origins``: source -> id of that extractor."""
    for source, origin in origins.items():
        wanted = pending.filter((pl.col("source") == source) & pl.col("given").is_in(["ok", "partial"]))
        samples = wanted["sample_id"].unique(maintain_order=True).to_list()
        finished = rows.filter((pl.col("extractor") == origin) & pl.col("status").is_in(["ok", "partial"]))
        columns = ["class_id", "class_name", "score"] if source.endswith(".objects") else ["text"]
        found: dict[str, str] = {}
        for chunk in windows.by_size(finished.filter(pl.col("sample_id").is_in(samples)), ROW_BYTES):
            found |= texts(ledger.as_polars(windows.counted(store, chunk, columns)))
        read = pl.DataFrame({"sample_id": samples, "found": [found.get(sample, "") for sample in samples]})
        read = read.cast({"sample_id": pl.String, "found": pl.String}).with_columns(source=pl.lit(source))
        pending = pending.join(read, on=["sample_id", "source"], how="left", maintain_order="left")
        pending = pending.with_columns(pl.coalesce("found", "text").alias("text")).drop("found")
    return pending


def texts(rows: pl.DataFrame) -> dict[str, str]:
    """Return one text per sample from windows in time order: texts joined by spaces, or the sentence of objects.

    The sentence names each class that was seen once, the most certain first: ``person, dog, traffic light``.
    """
    if "class_name" in rows.columns:
        best = rows.group_by("sample_id", "class_id", "class_name").agg(pl.col("score").max())
        rows = best.sort(["sample_id", "score", "class_id"], descending=[False, True, False])
        joined = rows.group_by("sample_id", maintain_order=True).agg(pl.col("class_name").str.join(", "))
    elif "text" in rows.columns:
        joined = rows.group_by("sample_id", maintain_order=True).agg(pl.col("text").str.strip_chars().str.join(" "))
    else:
        return {}
    return dict(joined.iter_rows())


def outcome(given: str, reason: str | None) -> tuple[str, Reason | None, str]:
    """Return status, reason and detail of a derived extractor, before it reads, from those of its source.

    A source that failed: skipped, ``source_failed``. One that was skipped: skipped for the same reason.
    """
    if given == "failed":
        return "skipped", Reason.SOURCE_FAILED, f"its source failed: {reason}"
    if given == "skipped":
        return "skipped", Reason(reason or Reason.NO_TEXT), "its source was skipped"
    if given == "partial":
        return "partial", Reason(reason) if reason else None, "its source is partial"
    return "ok", None, ""


def order(sources: dict[str, str]) -> list[str]:
    """Return names so that each comes after the one it reads; ``sources``: name -> the name it reads.

    ValueError, saying how they run in a circle, where there is no such order.
    """
    placed: list[str] = []

    def place(name: str, path: Sequence[str]) -> None:
        if name in path:
            raise ValueError(" -> ".join([*path[path.index(name) :], name]))
        if name in sources and name not in placed:
            place(sources[name], [*path, name])
            placed.append(name)

    for name in sources:
        place(name, [])
    return placed
