"""Predict what work costs: seconds of one core, bytes of rows. Rough, from measured rates; good for order and sum."""

from collections.abc import Sequence
from typing import Any

from mmray.extractors.base import Extractor
from mmray.pipelines.job import Task
from mmray.specs import AnySpec, AudioSpec, FrameSpec

PIXELS_PER_S = 5e8  # decoded by one core: 265 frames/s at 1080p, 597 at 720p, 2111 at 360p
SOUND_PER_S = 1000.0  # seconds of sound decoded and resampled in a second
CHUNK = 2000  # characters of a text that a model reads at once: about 500 tokens
OPEN_S = 0.005


def seconds(row: dict[str, Any]) -> float:
    """Return how much of the medium a row of work covers; an image counts as nothing."""
    end_s = row["end_s"] if row["end_s"] is not None else row["duration_s"]
    return max(0.0, float(end_s or 0.0) - float(row["start_s"]))


def items(extractor: Extractor, row: dict[str, Any]) -> float:
    """Return the pictures, windows, texts or whole clips that an extractor takes from a row of work."""
    if extractor.gather and extractor.whole_sample:
        return 1.0
    return sum(_items(spec, row) for spec in extractor.specs)


def _items(spec: AnySpec, row: dict[str, Any]) -> float:
    if isinstance(spec, AudioSpec):
        return seconds(row) / spec.hop_s
    if isinstance(spec, FrameSpec):
        rate = spec.fps or (row["fps"] or 25.0) / (spec.every or 1)
        return spec.uniform or spec.representative or max(1.0, seconds(row) * rate)
    return max(1.0, len(row.get("text") or "") / CHUNK)


def decode_core_s(specs: Sequence[AnySpec], row: dict[str, Any]) -> float:
    """Return the core seconds that decoding a row of work once takes."""
    if not any(isinstance(spec, FrameSpec) for spec in specs):
        return OPEN_S + seconds(row) / SOUND_PER_S
    frames = max(1.0, seconds(row) * (row["fps"] or 25.0))
    return OPEN_S + frames * (row["pixels"] or 1e6) / PIXELS_PER_S


def model_core_s(extractor: Extractor, row: dict[str, Any]) -> float:
    """Return the core seconds an extractor takes for a row of work."""
    return items(extractor, row) / extractor.cpu_items_per_s


def core_s(tasks: Sequence[Task], row: dict[str, Any], model_cores: float = 1) -> float:
    """Return the core seconds of a row of work for several extractors, decoded once; models on so many cores."""
    specs = [spec for task in tasks for spec in task.extractor.specs]
    return decode_core_s(specs, row) + sum(model_core_s(task.extractor, row) for task in tasks) / model_cores
