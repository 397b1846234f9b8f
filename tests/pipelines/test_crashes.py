"""Killed drivers, killed actors, samples that kill, hang or raise: the tables are those of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from mmray.pipelines.verify import verify
from tests.pipelines.conftest import ledger, rows

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


def command(config: Path) -> list[str]:
    return [sys.executable, "-m", "mmray.cli", "extract", str(config), "--json"]


def run(config: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(command(config), env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    account: dict[str, Any] = json.loads(done.stdout)
    assert account["adds_up"]
    return account


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def test_samples_that_kill_hang_or_raise_cost_themselves_alone(
    write: Callable[..., Path], environment: dict[str, str], tmp_path: Path
) -> None:
    texts = [*["fine"] * 6, "kill", *["fine"] * 3, "raise", "hang", *["fine"] * 6]
    config = write("store", texts, timeout_s=4, max_attempts=2)
    account = run(config, environment)
    (about,) = account["accounts"].values()
    assert (about["ok"], about["failed"]) == (15, 3)
    assert about["reasons"] == {"crashed": 1, "model_error": 1, "timeout": 1}
    table = pl.read_parquet(tmp_path / "store" / "ledger" / "*.parquet")
    details = dict(table.filter(pl.col("status") == "failed").select("reason", "detail").iter_rows())
    assert "no mood for this one" in details["model_error"]
    assert "died 2 times" in details["crashed"]
    assert "moody.py" in details["timeout"]
    assert verify(str(tmp_path / "store"))["ok"]
    again = run(config, environment)
    assert again["nothing_to_do"]


@pytest.mark.parametrize("victim", ["driver", "actor"])
def test_a_killed_run_ends_with_the_tables_of_an_undisturbed_one(
    write: Callable[..., Path], environment: dict[str, str], tmp_path: Path, victim: str
) -> None:
    texts = [f"slow {'x' * (n % 7)}" for n in range(60)]
    undisturbed = run(write("undisturbed", texts), environment)
    config = write("store", texts, resources={"actors": 2})
    store = tmp_path / "store"
    process = subprocess.Popen(
        command(config), env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: bool(list(store.glob("windows/*/part-*.parquet"))) and bool(list(store.glob("begun/*.json"))))
        if victim == "driver":
            process.kill()
            process.wait()
            assert not list(store.glob("runs/*.json")), "killed too late to prove anything"
            account = run(config, environment)
        else:
            pid = json.loads(next(iter(store.glob("begun/*.json"))).read_text())["pid"]
            os.kill(pid, signal.SIGKILL)
            account = json.loads(process.communicate(timeout=200)[0])
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert account["accounts"] == undisturbed["accounts"]
    assert_frame_equal(rows(store, "moody"), rows(tmp_path / "undisturbed", "moody"))
    assert_frame_equal(ledger(store), ledger(tmp_path / "undisturbed"))
    assert verify(str(store))["ok"], verify(str(store))["broken"]


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
