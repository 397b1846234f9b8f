"""A source that cannot be seen now is not a changed source: its results stay as they are, and the account counts it."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mmray
from mmray.pipelines.status import status
from mmray.pipelines.verify import verify
from mmray.tables import manifest
from mmray.tables.store import write_parquet
from tests.pipelines.conftest import ledger, rows

Config = dict[str, Any]


@pytest.fixture
def config(ray_session: None, clips: Path, tmp_path: Path) -> Config:
    """Return the configuration of a run over three clips, of which two lie in a folder that can be taken away."""
    disk = tmp_path / "disk"
    disk.mkdir()
    whole = sorted(path for path in clips.rglob("*.*") if path.parent != clips and path.stat().st_size > 10_000)[:3]
    copies = [disk / "a.mp4", disk / "b.mp4", tmp_path / "c.mp4"]
    for path, copy in zip(whole, copies, strict=True):
        shutil.copyfile(path, copy)  # a name that says mp4 is as good as any
    table, _ = manifest.gather([str(path) for path in copies])
    write_parquet(table, str(tmp_path / "m.parquet"))
    config: Config = {"manifest": str(tmp_path / "m.parquet"), "store": str(tmp_path / "store"), "segment_s": 0.96}
    return config | {"extractors": [{"name": "pixels", "side_px": 8}], "max_error_rate": 1}


def test_a_list_without_sizes_keeps_those_that_the_store_knows(config: Config, tmp_path: Path) -> None:
    names = {"a": "disk/a.mp4", "b": "disk/b.mp4", "c": "c.mp4"}
    (tmp_path / "m.csv").write_text("sample_id,uri\n" + "".join(f"{name},{path}\n" for name, path in names.items()))
    config |= {"manifest": str(tmp_path / "m.csv")}
    mmray.extract(config)
    before = pl.read_parquet(tmp_path / "store" / "manifest.parquet")
    (tmp_path / "disk").rename(tmp_path / "away")
    assert mmray.extract(config)["nothing_to_do"]
    assert_frame_equal(pl.read_parquet(tmp_path / "store" / "manifest.parquet"), before)


def counts(account: dict[str, Any]) -> dict[str, int]:
    (accounts,) = account["accounts"].values()
    return {name: accounts[name] for name in ("ok", "failed", "pending")}


def test_results_of_a_folder_that_is_away_stay(config: Config, tmp_path: Path) -> None:
    before = mmray.extract(config)
    windows, committed = rows(config["store"], "pixels"), ledger(config["store"])
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.parquet")}
    (tmp_path / "disk").rename(tmp_path / "away")
    during = mmray.extract(config)
    assert (during["absent"], during["changed"], during["nothing_to_do"]) == (2, 0, True)
    assert during["accounts"] == before["accounts"]
    assert status(config["store"])["absent"] == 2
    assert verify(config["store"])["broken"] == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.parquet")} == written
    (tmp_path / "away").rename(tmp_path / "disk")
    after = mmray.extract(config)
    assert (after["absent"], after["nothing_to_do"]) == (0, True)
    assert_frame_equal(rows(config["store"], "pixels"), windows)
    assert_frame_equal(ledger(config["store"]), committed)


def test_work_on_what_is_there_goes_on_beside_absent_sources(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mmray.extract(config)
    (tmp_path / "disk").rename(tmp_path / "away")
    more = [*config["extractors"], {"name": "pixels", "as": "small", "side_px": 4}]
    account = mmray.extract(config | {"extractors": more})
    old, new = account["accounts"].values()
    assert (old["ok"], old["pending"]) == (3, 0)
    assert (new["ok"], new["failed"], new["pending"]) == (1, 0, 2)
    assert account["adds_up"]
    assert [text for text in caplog.messages if "2 of 3 sources cannot be seen now" in text]
    assert verify(config["store"])["broken"] == []
    (tmp_path / "away").rename(tmp_path / "disk")
    back = mmray.extract(config | {"extractors": more})
    assert [accounts["ok"] for accounts in back["accounts"].values()] == [3, 3]


def test_a_source_that_was_never_there_fails_and_is_done_when_it_comes(config: Config, tmp_path: Path) -> None:
    (tmp_path / "disk").rename(tmp_path / "away")
    assert counts(mmray.extract(config)) == {"ok": 1, "failed": 2, "pending": 0}
    (tmp_path / "away").rename(tmp_path / "disk")
    assert counts(mmray.extract(config)) == {"ok": 3, "failed": 0, "pending": 0}
    assert verify(config["store"])["broken"] == []


def test_a_source_that_goes_away_during_the_run_waits(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmray.pipelines import extract

    def look(*given: Any) -> Any:
        seen = original(*given)
        (tmp_path / "disk").rename(tmp_path / "away")
        return seen

    original = extract.look
    monkeypatch.setattr(extract, "look", look)
    account = mmray.extract(config)
    monkeypatch.undo()
    assert counts(account) == {"ok": 1, "failed": 0, "pending": 2}
    (reasons,) = [accounts["reasons"] for accounts in account["accounts"].values()]
    assert reasons == {"unavailable": 2}
    assert account["adds_up"]
    (tmp_path / "away").rename(tmp_path / "disk")
    assert counts(mmray.extract(config)) == {"ok": 3, "failed": 0, "pending": 0}
    assert verify(config["store"])["broken"] == []


def test_a_changed_source_is_redone_although_others_are_absent(config: Config, tmp_path: Path) -> None:
    mmray.extract(config)
    (tmp_path / "disk").rename(tmp_path / "away")
    changed = tmp_path / "c.mp4"
    changed.write_bytes(changed.read_bytes() + b"\0")
    account = mmray.extract(config)
    assert (account["changed"], account["absent"]) == (1, 2)
    assert counts(account) == {"ok": 3, "failed": 0, "pending": 0}
