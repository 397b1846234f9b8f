"""A small corpus, tiny checkpoints, and one Ray for all in-process runs."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import mmray
from mmray import demo

TEXTS = ["a circle moves", "ein Dreieck bewegt sich, während es piept", "一个正方形在移动 🎬", "   ", "دائرة تتحرك"]
Extract = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def ray_session(s3_environment: dict[str, str]) -> Iterator[None]:
    """Start one embedded Ray with four logical CPUs, whose workers can reach the S3 server."""
    from mmray.pipelines import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(cluster, "cores", lambda: 4)
        with cluster.connected():
            yield


@pytest.fixture(scope="session")
def tiny(tiny_models: Path) -> Path:
    """Return the folder of the tiny checkpoints."""
    return tiny_models


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record nine clips of the demo corpus (several containers) and four awkward files."""
    folder = tmp_path_factory.mktemp("clips")
    planned = demo.plan(0)
    recordings = [one for one in planned if "awkward" not in one.clip.file]
    for recording in recordings[::3]:
        path = folder / recording.clip.file
        path.parent.mkdir(parents=True, exist_ok=True)
        demo.record(recording, path)
    whole = next(folder.rglob("*.mp4")).read_bytes()
    demo.record(next(one for one in planned if one.clip.file == "awkward/black.mp4"), folder / "black.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut off.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "näme 'x' 日本 🎬.mp4").write_bytes(whole)
    return folder


@pytest.fixture(scope="session")
def corpus(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the manifest of the clips, with texts."""
    from mmray.tables import manifest
    from mmray.tables.store import write_parquet

    table, _ = manifest.gather([str(clips)], label_from_parent=True)
    texts = [TEXTS[place % len(TEXTS)] for place in range(table.num_rows)]
    path = tmp_path_factory.mktemp("manifest") / "manifest.parquet"
    write_parquet(table.append_column("text", [texts]), str(path))
    return path


@pytest.fixture(scope="session")
def entries(tiny: Path) -> list[dict[str, Any]]:
    """Return the configuration entries of all five extractors of the main job."""
    return [
        {"name": "descriptors"},
        {"name": "yamnet", "weights": str(tiny / "yamnet" / "yamnet.h5"), "pooling": ["mean", "max"]},
        {"name": "yolo_onnx", "weights": str(tiny / "yolox" / "yolox.onnx"), "fps": 2, "score_threshold": 0.01},
        {"name": "clip", "model": str(tiny / "clip"), "uniform": 4},
        {"name": "sbert", "source": "text", "model": str(tiny / "sbert")},
    ]


@pytest.fixture(scope="session")
def light(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return two entries that need no torch: an actor for them starts in half a second."""
    return [entries[0], entries[2]]


@pytest.fixture
def extract(ray_session: None, corpus: Path, entries: list[dict[str, Any]], tmp_path: Path) -> Extract:
    """Return a function that runs an extraction; keyword arguments replace keys of the configuration."""

    def run(limit: int | None = None, **keys: Any) -> dict[str, Any]:
        config = {"manifest": str(corpus), "store": str(tmp_path / "store"), "extractors": entries}
        config |= {"resources": {"actors": 1}, **keys}
        return mmray.extract(config, limit)

    return run


def rows(store: Path | str, name: str) -> pl.DataFrame:
    """Return a windows table by plain globs, in order, without what differs from run to run."""
    frame = pl.read_parquet(f"{store}/windows/extractor={name}-*/*.parquet", hive_partitioning=False)
    order = [
        column
        for column in ("sample_id", "window", "class_id", "x1", "y1", "x2", "y2", "score")
        if column in frame.columns
    ]
    return frame.drop("run_id").sort(order)


def ledger(store: Path | str) -> pl.DataFrame:
    """Return what the ledger says, in order, without what differs from run to run."""
    frame = pl.read_parquet(f"{store}/ledger/*.parquet")
    return frame.select("sample_id", "segment", "extractor", "status", "reason", "rows", "frames", "input").sort(
        "extractor", "sample_id", "segment"
    )


PLUGIN = '''
import os, signal, time
from mmray.extractors.base import Extractor, Kind
from mmray.specs import Rows, TextSpec
import numpy as np

class Moody(Extractor):
    """Does to its process what the text says."""
    name = "moody"
    input: TextSpec = TextSpec()
    batch_size: int = 4
    cpu_items_per_s = 5.0
    def dims(self, path):
        return {"embedding": 1}
    def load(self, device, path):
        def extract(texts):
            for one in texts:
                if one.text == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if one.text == "hang":
                    time.sleep(60)
                if one.text == "raise":
                    raise RuntimeError("no mood for this one")
                if one.text.startswith("slow"):
                    time.sleep(0.2)
                yield Rows([0], [None], [None], {"embedding": np.full((1, 1), len(one.text), np.float32)})
        return extract
'''


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Install a third party's extractor, as pip would: a module and an entry point."""
    site = tmp_path / "site"
    about = site / "moody-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "moody.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mmray.extractors]\nmoody = moody:Moody\n")
    return {**os.environ, "PYTHONPATH": str(site)} | {"RAY_ADDRESS": ""}


@pytest.fixture
def joined(ray_session: None, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment of a run that joins the session's Ray: it starts in a moment, and can be killed as any.

    Runs are started in the folder of the third party's module: workers of a Ray that was there before know a driver's
    working directory, not its PYTHONPATH.
    """
    import ray

    monkeypatch.chdir(environment["PYTHONPATH"])
    return environment | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a manifest of texts and a configuration."""

    def make(name: str, texts: list[str], **keys: Any) -> Path:
        listed = tmp_path / "texts.jsonl"
        listed.write_text(
            "".join(json.dumps({"sample_id": f"s{n:03d}", "text": t}) + "\n" for n, t in enumerate(texts))
        )
        config = {"manifest": str(listed), "store": str(tmp_path / name), "max_error_rate": 1}
        config |= {"extractors": [{"name": "moody", "source": "text"}], "resources": {"actors": 1}}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config | keys))
        return path

    return make


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until something is so; the limit is for what hangs, and no measure of speed."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)
