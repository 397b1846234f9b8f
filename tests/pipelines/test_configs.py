"""The configurations that mmray ships: every one is valid, and the one with every extractor runs."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import mmray
from mmray.config import load_extract
from mmray.extractors import registry
from mmray.extractors.base import Kind
from mmray.pipelines import job, verify
from mmray.tables import windows
from tests.conftest import ROOT

TINY = {"weights", "model", "gate", "pca"}
COLUMNS = ["sample_id", "uri", "text"]


def of_extraction() -> list[Path]:
    return [
        path for path in sorted((ROOT / "configs").glob("*.yaml")) if "extractors" in yaml.safe_load(path.read_text())
    ]


@pytest.mark.parametrize("path", of_extraction(), ids=lambda path: path.name)
def test_every_key_of_every_configuration_exists(path: Path) -> None:
    for place, entry in enumerate(load_extract(str(path)).extractors):
        job.build(entry.name, entry.settings, f"extractors[{place}]", path.name)


def test_the_run_over_queryd_is_one_that_can_run(tiny: Path) -> None:
    """With tiny checkpoints in the place of the real ones, everything finds what it reads."""
    config = load_extract(str(ROOT / "configs" / "queryd.yaml"))
    folders = {"yolov7": "yolov7", "clip_summary": "clip"}
    entries = []
    for entry in config.extractors:
        kind = registry.get(entry.name)
        if kind.checkpoint is not None:
            kept = {key: value for key, value in entry.settings.items() if key not in {"representative", "candidates"}}
            kept |= {"gate": str(tiny / "silero_vad")} if entry.name == "whisper" else {}
            named = {kind.checkpoint: str(tiny / folders.get(entry.as_, entry.name))}
            if entry.as_ == "sbert_roberta":
                continue  # the same tiny checkpoint would make it the same extractor
            entry = type(entry)(name=entry.name, **{"as": entry.as_}, **kept | named)
        entries.append(entry)
    tasks = job.tasks(entries, "queryd.yaml", COLUMNS)
    assert {task.as_: task.wave for task in tasks if task.wave} == dict.fromkeys(
        ["sbert_spoken", "sbert_described", "sbert_objects", "clip_summary"], 1
    )


def test_every_extractor_runs_over_the_awkward_and_the_sound(
    ray_session: None, corpus: Path, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "models").symlink_to(tiny)
    file = tmp_path / "all-tiny.yaml"
    file.write_text((ROOT / "configs" / "all-tiny.yaml").read_text().replace(" demo/", f" {tmp_path}/demo/"))
    assert {entry.name for entry in load_extract(str(file)).extractors} == set(registry.BUILT_IN)
    samples = pl.read_parquet(corpus)
    regular = samples["sample_id"].str.contains("/", literal=True)
    few = pl.concat([samples.filter(regular).gather_every(3), samples.filter(~regular)])
    few.write_parquet(tmp_path / "few.parquet")
    config: dict[str, Any] = yaml.safe_load(file.read_text()) | {"manifest": str(tmp_path / "few.parquet")}
    config["resources"] = {"actors": 1}  # each loads every model
    account = mmray.extract(config)
    assert account["adds_up"]
    counts = account["accounts"]
    assert all(about["pending"] == 0 for about in counts.values())
    assert all(about["ok"] > 0 for about in counts.values()), counts
    store = config["store"]
    assert verify.verify(store)["ok"]
    assert mmray.extract(config)["nothing_to_do"]

    tasks = job.tasks(load_extract(str(file)).extractors, "all-tiny.yaml", COLUMNS)
    for task in tasks:
        frame = pl.scan_parquet(f"{store}/windows/extractor={task.id}/*.parquet").head(1000).collect()
        assert frame.height > 0, task.as_
        expected = windows.schema(
            str(task.extractor.kind), task.extractor.dims(task.path), tuple(task.extractor.summary), task.extractor.half
        )
        assert frame.drop("extractor", strict=False).columns == expected.names
        for pooling in task.extractor.pooling:
            assert len(mmray.load(store, task.id, pooling).ids) > 0
        assert task.extractor.kind != Kind.TEXT or task.extractor.pooling == ()
