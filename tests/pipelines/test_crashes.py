"""Killed drivers, killed actors, samples that kill, hang or raise: the tables are those of an undisturbed run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from mmray.pipelines.verify import verify
from tests.pipelines.conftest import ledger, rows, wait_for


def command(config: Path) -> list[str]:
    return [sys.executable, "-m", "mmray.cli", "extract", str(config), "--json"]


def run(config: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(command(config), env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    account: dict[str, Any] = json.loads(done.stdout)
    assert account["adds_up"]
    return account


def kill_an_actor(store: Path) -> bool:
    """Kill an actor that says it is at work; False where it has just finished, and its note is gone."""
    for note in store.glob("attempts/*.json"):
        with contextlib.suppress(FileNotFoundError):
            os.kill(json.loads(note.read_text())["pid"], signal.SIGKILL)
            return True
    return False


def test_samples_that_kill_hang_or_raise_cost_themselves_alone(
    write: Callable[..., Path], joined: dict[str, str], tmp_path: Path
) -> None:
    texts = [*["fine"] * 6, "kill", *["fine"] * 3, "raise", "hang", *["fine"] * 6]
    config = write("store", texts, timeout_s=4, max_attempts=2)
    account = run(config, joined)
    (about,) = account["accounts"].values()
    assert (about["ok"], about["failed"]) == (15, 3)
    assert about["reasons"] == {"crashed": 1, "model_error": 1, "timeout": 1}
    table = pl.read_parquet(tmp_path / "store" / "ledger" / "*.parquet")
    details = dict(table.filter(pl.col("status") == "failed").select("reason", "detail").iter_rows())
    assert "no mood for this one" in details["model_error"]
    assert "died 2 times" in details["crashed"]
    assert "moody.py" in details["timeout"]
    assert verify(str(tmp_path / "store"))["ok"]
    again = run(config, joined)
    assert again["nothing_to_do"]


def test_a_killed_run_ends_with_the_tables_of_an_undisturbed_one(
    write: Callable[..., Path], environment: dict[str, str], joined: dict[str, str], tmp_path: Path
) -> None:
    texts = [f"slow {'x' * (n % 7)}" for n in range(40)]
    two = {"resources": {"actors": 2}}
    undisturbed = run(write("undisturbed", texts, **two), joined)
    # A driver takes the Ray that it started with it; whoever comes next may have another.
    for victim, ray in (("driver", environment), ("actor", joined)):
        store, config = tmp_path / victim, write(victim, texts, **two)
        with started(config, ray) as process:
            wait_for(lambda store=store: bool(list(store.glob("windows/*/part-*.parquet"))))
            if victim == "actor":
                wait_for(lambda store=store: kill_an_actor(store))
                account = json.loads(process.communicate(timeout=200)[0])
            else:
                process.kill()
                process.wait()
                assert not list(store.glob("runs/*.json")), "killed too late to prove anything"
                account = run(config, joined)
        assert account["accounts"] == undisturbed["accounts"]
        assert_frame_equal(rows(store, "moody"), rows(tmp_path / "undisturbed", "moody"))
        assert_frame_equal(ledger(store), ledger(tmp_path / "undisturbed"))
        assert verify(str(store))["broken"] == []


@contextlib.contextmanager
def started(config: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run; it does not outlive the test."""
    process = subprocess.Popen(command(config), env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_interrupting_keeps_what_is_committed(
    write: Callable[..., Path], environment: dict[str, str], tmp_path: Path
) -> None:
    config = write("store", [f"slow {n}" for n in range(200)])
    process = subprocess.Popen(
        command(config), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: bool(list((tmp_path / "store").glob("ledger/*.parquet"))))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "what is committed is kept" in said
    assert "Traceback" not in said
    assert not (tmp_path / "store" / "lock.json").exists()
    kept = pl.read_parquet(tmp_path / "store" / "ledger" / "*.parquet").height
    assert 0 < kept < 200
