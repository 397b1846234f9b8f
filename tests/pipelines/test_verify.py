"""A damaged store is named in one sentence, verified without a traceback, and repaired by the same commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mmray
from mmray import cli, printing, storage
from mmray.pipelines import adopt, status
from mmray.pipelines.verify import verify
from mmray.tables import lease, ledger
from mmray.tables.store import open_store
from tests.pipelines.test_import import IDS, MATRIX, given

HALVES = ((0, 12), (12, 20))


def imported(folder: Path) -> list[dict[str, Any]]:
    """Import twelve samples and eight, in a run each."""
    store = str(folder / "store")
    return [
        adopt.run([given(folder, first, last, f"{first}.npz")], store, "tool", {"split": "train"})
        for first, last in HALVES
    ]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    imported(tmp_path)
    assert verify(str(tmp_path / "store"))["ok"]
    return tmp_path / "store"


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one(store: Path, pattern: str) -> Path:
    return max(store.glob(pattern))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    "a ledger file cut in half": (lambda s: halve(one(s, "ledger/*")), "readable", "ledger/part-", "just its rows"),
    "a ledger file of another schema": (
        lambda s: pl.DataFrame({"a": [1]}).write_parquet(one(s, "ledger/*")), "readable", "ledger/part-", "it lacks",
    ),
    "the manifest cut in half": (lambda s: halve(s / "manifest.parquet"), "readable", "manifest.parquet", "manifest"),
    "provenance cut in half": (lambda s: halve(one(s, "provenance/*")), "readable", "provenance/", "writes it again"),
    "provenance that lacks keys": (
        lambda s: one(s, "provenance/*").write_text('{"id": "x"}'), "readable", "provenance/", "it lacks as, kind",
    ),
    "the account of a run cut in half": (lambda s: halve(one(s, "runs/*")), "readable", "runs/", "no results"),
    "a part cut in half": (lambda s: halve(one(s, "windows/*/*")), "readable", "windows/", "back in the queue"),
    "a part that is missing": (lambda s: one(s, "windows/*/*").unlink(), "rows", "windows/", "back in the queue"),
    "features cut in half": (lambda s: halve(one(s, "features/*/*/*")), "readable", "features/", "again makes it"),
    "features that are missing": (lambda s: one(s, "features/*/*/*").unlink(), "features", "features/", "again makes"),
    "a newer store": (
        lambda s: (s / "store.json").write_text('{"schema_version": 2}'), "schema", "store.json", "update mmray",
    ),
    "a broken store.json": (lambda s: halve(s / "store.json"), "schema", "store.json", "delete it: the next extract"),
    "a lock of another version": (
        lambda s: (s / "lock.json").write_text('{"version": 2, "run_id": "r"}'), "lease", "lock.json", "delete the",
    ),
}  # fmt: skip
BY_HAND = ("a newer store", "a broken store.json", "a lock of another version")


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_listed_with_its_mend_and_the_same_commands_repair_it(
    damage: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    make, promise, path, mend = DAMAGES[damage]
    make(store)
    assert cli.main(["verify", str(store)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BROKEN")]
    assert line.startswith(f"BROKEN {promise}: {path}")
    assert mend in line
    if damage in BY_HAND:
        caplog.clear()
        assert cli.main(["import", str(tmp_path / "0.npz"), "--store", str(store), "--as", "tool"]) == 3
        (record,) = caplog.records
        assert "\n" not in record.message
        file = store / ("lock.json" if "lock" in damage else "store.json")
        file.write_text('{"schema_version": 1}') if "newer" in damage else file.unlink()
    else:
        cli.main(["verify", str(store), "--clean"])
    imported(tmp_path)
    result = verify(str(store))
    assert [broken for broken in result["broken"] if broken["promise"] != "orphans"] == []
    found = mmray.load(str(store), "tool")
    assert found.ids == IDS
    assert (found.matrix == MATRIX).all()
    assert status.status(str(store))["nothing_to_do"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("a ledger file cut in half", ["status"]),
        ("a ledger file of another schema", ["retry", "--reason", "corrupt"]),
        ("the manifest cut in half", ["status"]),
        ("the account of a run cut in half", ["status"]),
        ("features cut in half", ["export", "--extractor", "tool", "-o", "out.npz"]),
        ("features that are missing", ["export", "--extractor", "tool", "-o", "out.npz"]),
        ("a newer store", ["status"]),
        ("a broken store.json", ["status"]),
        ("a lock of another version", ["retry", "--reason", "corrupt"]),
    ],
)
def test_a_verb_says_in_one_sentence_what_is_damaged_and_fails(
    damage: str, words: list[str], store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES[damage][0](store)
    assert cli.main([words[0], str(store), *words[1:]]) == 3
    (record,) = caplog.records
    assert str(store) in record.message
    assert "\n" not in record.message
    assert "Traceback" not in record.message


def test_a_damaged_ledger_file_costs_just_its_rows_and_no_part_is_deleted_for_it(store: Path, tmp_path: Path) -> None:
    parts = sorted(store.glob("windows/*/*"))
    damaged = one(store, "ledger/*")
    halve(damaged)
    result = verify(str(store), clean=True)
    assert result["repaired"] == [
        f"ledger/{damaged.name} was moved to damaged/: the next extract does just its rows again"
    ]
    # The eight samples are not known any more, and their part and features are not deleted for it.
    assert {broken["promise"] for broken in result["broken"]} == {"orphans", "features"}
    assert sorted(store.glob("windows/*/*")) == parts
    assert not damaged.exists()
    assert (store / "damaged" / "ledger" / damaged.name).exists()
    first, second = imported(tmp_path)
    assert (first["unchanged"], second["unchanged"]) == (12, 0)
    (store / "damaged" / "ledger" / damaged.name).unlink()
    assert verify(str(store), clean=True)["removed"] == [str(parts[-1])]
    assert verify(str(store))["ok"]


def test_segments_whose_part_is_gone_are_pending_again_and_no_others(store: Path, tmp_path: Path) -> None:
    one(store, "windows/*/*").unlink()
    assert verify(str(store), clean=True)["repaired"] == [
        "8 segment(s) without their rows are pending again: the next extract does them"
    ]
    (counts,) = status.status(str(store))["accounts"].values()
    assert (counts["ok"], counts["pending"]) == (12, 8)
    assert [done["unchanged"] for done in imported(tmp_path)] == [12, 0]
    assert verify(str(store))["ok"]


def test_while_a_run_is_active_nothing_in_flight_is_broken_and_nothing_is_cleaned(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = open_store(str(store))
    part = one(store, "windows/*/*")
    orphan = part.with_name("part-in-flight-00001.parquet")
    orphan.write_bytes(part.read_bytes())
    (store / "windows" / ".tmp-abc").write_bytes(b"half")
    one(store, "features/*/*/*").unlink()
    with lease.hold(opened, "20261231T10-run"):
        result = verify(str(store))
        assert result["ok"]
        assert result["running"]["run_id"] == "20261231T10-run"
        assert "a run is active (20261231T10-run on " in printing.text("verify", result)
        assert cli.main(["verify", str(store), "--clean"]) == 3
        assert "20261231T10-run" in caplog.text
        assert orphan.exists()
        part.unlink()
        assert [broken["promise"] for broken in verify(str(store))["broken"]] == ["rows"]
    assert {broken["promise"] for broken in verify(str(store))["broken"]} == {"orphans", "rows", "features"}


def test_what_a_run_replaces_during_a_look_is_looked_at_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_store(str(store))
    part = one(store, "windows/*/*")
    data, true = part.read_bytes(), lease.holder
    looks: list[int] = []

    def holder(about: Any) -> Any:
        """Move a part away until the second look, as the end of a run does."""
        looks.append(1)
        part.unlink() if len(looks) == 1 else part.write_bytes(data)
        return true(about)

    monkeypatch.setattr(lease, "holder", holder)
    with lease.hold(opened, "run"):
        assert verify(str(store))["ok"]
    assert len(looks) == 2


def test_late_commits_of_a_suspended_run_are_orphans_until_they_are_cleaned(store: Path) -> None:
    opened = open_store(str(store))
    with lease.hold(opened, "later") as held:
        rows = ledger.read(opened)
        ledger.compact(opened, rows, ledger.parts(opened), "later", held)
    late = opened.path("ledger", "part-00000001-suspended-000009.parquet")
    storage.put(late, Path(ledger.parts(opened)[0]).read_bytes())
    (broken,) = verify(str(store))["broken"]
    assert broken["promise"] == "orphans"
    assert "came late from a suspended run" in broken["detail"]
    assert verify(str(store), clean=True)["removed"] == [late]
    assert verify(str(store))["ok"]


def test_verify_prints_what_it_repaired(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one(store, "windows/*/*").unlink()
    assert cli.main(["verify", str(store), "--clean", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["running"] is None
    one(store, "windows/*/*").unlink()
    assert cli.main(["verify", str(store), "--clean"]) == 0
    assert capsys.readouterr().out.startswith("repaired: 12 segment(s) without their rows are pending again")
