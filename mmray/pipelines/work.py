"""Group what is pending into calls of an actor."""

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import polars as pl

from mmray.pipelines import predict
from mmray.pipelines.job import Task
from mmray.tables import ledger

BATCH_S = 20.0  # predicted work of one call of an actor: what a lost actor can lose
BATCH_SEGMENTS = 64
GPU_CORES = 200  # that do a model's work as fast as a GPU: CLIP-B/32 194, ViViT-B 235 of an H200, in float32


def batches(
    pending: pl.DataFrame, tasks: Sequence[Task], rows: pl.DataFrame, actors: int, on_gpu: bool
) -> Iterator[list[dict[str, Any]]]:
    """Group pending keys to segments, and segments to calls of so many actors: long ones first and alone."""
    place = {task.id: number for number, task in enumerate(tasks)}
    attempts = rows.group_by("sample_id", "segment", "extractor").agg(pl.col("attempt").max())
    keyed = pending.join(attempts, on=ledger.KEY, how="left")
    grouped = keyed.group_by("sample_id", "source", "segment", "input", maintain_order=True).agg(
        pl.col("extractor"),
        pl.col("attempt").max().fill_null(0) + 1,
        *(
            pl.col(n).first()
            for n in (
                "uri",
                "text",
                "start_s",
                "end_s",
                "offset_s",
                "limit_s",
                "duration_s",
                "present",
                "audio_entry",
                "given",
                "given_reason",
                "pixels",
                "fps",
            )
        ),
    )
    costed = []
    for row in grouped.iter_rows(named=True):
        places = tuple(sorted(place[extractor] for extractor in row["extractor"]))
        cost = predict.core_s([tasks[one] for one in places], row, GPU_CORES if on_gpu else 1)
        kept = {name: row[name] for name in row if name not in {"extractor", "pixels", "fps"}}
        costed.append((cost, kept | {"offset_s": row["offset_s"] or 0.0, "tasks": places}))
    costed.sort(key=lambda pair: -pair[0])
    limit_s = min(BATCH_S, max(0.5, sum(cost for cost, _ in costed) / (8 * actors)))
    most = BATCH_SEGMENTS
    if slow := [task.extractor.batch_size for task in tasks if task.extractor.slow]:
        limit_s, most = inf, min(slow)
    batch: list[dict[str, Any]] = []
    batch_s = 0.0
    for cost, segment in costed:
        if batch and (batch_s + cost > limit_s or len(batch) >= most):
            yield batch
            batch, batch_s = [], 0.0
        batch.append(segment)
        batch_s += cost
    if batch:
        yield batch
