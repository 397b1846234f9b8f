"""The corpus of the fault suite: 30 short clips of the demo corpus, and one medium of three segments."""

import shutil
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmray import demo
from mmray.tables import manifest
from mmray.tables.store import write_parquet

CLIPS = 30
SEGMENT_S = 1.92
MEDIUM_S = 5.4  # three segments: a tail shorter than 0.96 s stays with the segment before it
MEDIUM = "medium.mp4"
POISON, TARPIT = "poison.wav", "tarpit.wav"  # what kills and what stops the process that hears it
RATE_HZ = 16_000


def make(folder: Path, seed: int, clips: int = CLIPS) -> Path:
    """Record the corpus; the same seed gives the same bytes."""
    regular = [recording for recording in demo.plan(seed) if recording.seed[1] < 24]
    for number in range(clips):
        recording = regular[number % len(regular)]
        scene = replace(recording.scenes[0], duration_s=1.0 + number % 3 / 4)
        path = folder / f"clip-{number:02d}{recording.form.suffix}"
        demo.record(replace(recording, scenes=(scene,), seed=(seed, number)), path)
    first = regular[0]
    scene = replace(first.scenes[0], duration_s=MEDIUM_S)
    demo.record(replace(first, scenes=(scene,)), folder / MEDIUM)
    return folder


def copied(source: Path, target: Path) -> Path:
    """Copy a corpus with its modification times, so that its files count as the same sources."""
    return Path(shutil.copytree(source, target))


def constant(path: Path, value: float, seconds: float = 1.2) -> None:
    """Write a sound that has one value only."""
    samples = np.full(int(seconds * RATE_HZ), round(value * 32768), "<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.tobytes())


def manifest_of(source: Path | str, target: Path | str) -> str:
    """Write the manifest of a folder or a bucket; sample ids are the names of the files."""
    table, _ = manifest.gather([str(source)])
    table = table.append_column("text", [[f"text {name}" for name in table["sample_id"].to_pylist()]])
    write_parquet(table, str(target))
    return str(target)
