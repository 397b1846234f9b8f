"""``mmray plan``: probe everything, and say what a run will take, before it takes it."""

from typing import Any

import polars as pl

from mmray import provenance, storage
from mmray.config import ExtractConfig
from mmray.pipelines import cluster, plan, predict
from mmray.pipelines.job import Task
from mmray.pipelines.job import tasks as build_tasks
from mmray.pipelines.state import State, look, probed
from mmray.tables import lease, manifest
from mmray.tables.store import open_store

UNKNOWN: dict[str, Any] = {"start_s": 0.0, "end_s": None, "duration_s": None, "pixels": 0, "fps": None}


def run(config: ExtractConfig, file: str = "configuration") -> dict[str, Any]:
    """Probe all media, write the segment table, predict core hours, bytes and failures of what is pending."""
    samples = manifest.read(config.manifest)
    tasks = build_tasks(config.extractors, file, samples.column_names)
    store = open_store(storage.absolute(config.store), create=True)
    with lease.hold(store, provenance.new_run_id()) as held:
        _, state = look(store, samples, tasks)
        if not plan.unplanned(state.media, state.segments).is_empty():
            with cluster.connected() as ray:
                state = probed(ray, store, config, state, state.media, held)
    problems = state.segments.filter(pl.col("problem").is_not_null()).select("sample_id", "problem").unique()
    reasons = problems["problem"].str.split(":").list.first().value_counts().sort("problem")
    return {
        "samples": state.samples,
        "segments": state.segments.filter(pl.col("scope") == "segment").height,
        "media_hours": round(float(_media_s(state)) / 3600, 4),
        "problems": dict(reasons.iter_rows()),
        "extractors": _forecasts(state),
        "cores_here": cluster.cores(),
    }


def _media_s(state: State) -> float:
    return float(state.segments.unique(["sample_id", "source"])["duration_s"].sum() or 0)


def _forecasts(state: State) -> dict[str, dict[str, Any]]:
    """Predict each extractor's work; of one whose source is not done yet as a text for each sample."""
    expected, pending = state.expected, state.pending
    found = {}
    for task in state.tasks:
        rows = pending.filter(pl.col("extractor") == task.id).to_dicts()
        known = expected.filter(pl.col("extractor") == task.id)["sample_id"].n_unique()
        found[task.id] = _forecast(task, state, rows + [UNKNOWN] * (state.samples - known))
    return found


def _forecast(task: Task, state: State, rows: list[dict[str, Any]]) -> dict[str, Any]:
    items = sum(predict.items(task.extractor, row) for row in rows)
    width = sum(task.extractor.dims(task.path).values()) or 8
    return {
        "name": task.as_,
        "pending": len(rows),
        "core_hours": round(sum(predict.core_s([task], row) for row in rows) / 3600, 4),
        "bytes": int(items * width * 4),
        "failures": state.segments.filter(pl.col("problem").is_not_null() & (pl.col("source") == task.source)).height,
    }
