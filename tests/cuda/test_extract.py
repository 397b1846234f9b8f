"""`mmray extract` on a GPU: the tables of a CPU, and a sample that ends all work on the GPU costs itself alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from mmray import cli
from mmray.errors import ConfigError
from mmray.pipelines.verify import verify
from tests.pipelines.conftest import ledger, rows

# In float32 two FFTs differ by up to 8e-4 where a band holds next to nothing beside a loud tone (see models/mel.py).
TOLERANCE = {"yamnet": 1e-3}
PLUGIN = '''
import numpy as np
from mmray.extractors.base import Extractor, Kind
from mmray.specs import Rows, TextSpec

class Moody(Extractor):
    """Does to its GPU what the text says."""
    name = "moody"
    input: TextSpec = TextSpec()
    batch_size: int = 4
    cpu_items_per_s = 5.0
    def dims(self, path):
        return {"embedding": 1}
    def load(self, device, path):
        import torch
        def extract(texts):
            for one in texts:
                if one.text == "greedy":
                    torch.empty(2**42, device=device)
                places = torch.tensor([9 if one.text == "lose" else 1], device=device)
                length = torch.full((3,), len(one.text), dtype=torch.float32, device=device)[places]
                yield Rows([0], [None], [None], {"embedding": length.cpu().numpy()[None]})
        return extract
'''


def assert_tables_near(one: Path, other: Path) -> None:
    assert ledger(one).equals(ledger(other))
    for name in ("descriptors", "yamnet", "yolo_onnx", "clip", "sbert"):
        found, expected = rows(one, name), rows(other, name)
        assert found.shape == expected.shape
        for column in expected.columns:
            wanted = expected[column].to_numpy()
            if expected[column].dtype in (pl.Float32, pl.Float64) or expected[column].dtype == pl.Array:
                np.testing.assert_allclose(found[column].to_numpy(), wanted, atol=TOLERANCE.get(name, 1e-4))
            else:
                assert found[column].equals(expected[column]), f"{name}: {column}"


def test_one_actor_or_two_on_a_gpu_give_the_tables_of_a_cpu(extract: Any, tmp_path: Path) -> None:
    wide = {"cpu": {"gpus_per_actor": 0, "actors": 2}, "gpu": {}, "shared": {"gpus_per_actor": 0.5, "actors": 2}}
    for name, resources in wide.items():
        account = extract(store=str(tmp_path / name), resources=resources, max_error_rate=1)
        assert account["adds_up"]
        assert verify(str(tmp_path / name))["ok"]
    assert_tables_near(tmp_path / "gpu", tmp_path / "cpu")
    assert_tables_near(tmp_path / "shared", tmp_path / "cpu")


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"gpus_per_actor": 16}, "16 GPU each do not fit"),
        ({"gpus_per_actor": 0.6, "actors": 2 * torch.cuda.device_count()}, "do not fit"),
        ({"gpus_per_actor": 1.5}, "a share of one GPU, or whole ones"),
    ],
)
def test_more_than_the_gpus_is_refused(extract: Any, resources: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        extract(extractors=[{"name": "pixels"}], resources=resources)


def test_what_ends_all_work_on_the_gpu_costs_one_sample(write: Any, tmp_path: Path) -> None:
    (tmp_path / "moody-1.0.dist-info").mkdir()
    (tmp_path / "moody.py").write_text(PLUGIN)
    (tmp_path / "moody-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (tmp_path / "moody-1.0.dist-info" / "entry_points.txt").write_text("[mmray.extractors]\nmoody = moody:Moody\n")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    texts = [*["fine"] * 5, "lose", *["fine"] * 3, "greedy", *["fine"] * 5]
    config = write("store", texts, max_attempts=2)
    command = [sys.executable, "-m", "mmray.cli", "extract", str(config), "--json"]
    environment = {**os.environ, "PYTHONPATH": paths, "RAY_ADDRESS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    (about,) = json.loads(done.stdout)["accounts"].values()
    assert (about["ok"], about["failed"]) == (13, 2)
    assert about["reasons"] == {"crashed": 1, "out_of_memory": 1}
    table = pl.read_parquet(tmp_path / "store" / "ledger" / "*.parquet")
    details = dict(table.filter(pl.col("status") == "failed").select("reason", "detail").iter_rows())
    assert "assert" in details["crashed"]
    assert "OutOfMemoryError" in details["out_of_memory"]


def test_doctor_names_the_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    checks = {one["name"]: one["detail"] for one in json.loads(capsys.readouterr().out)["checks"]}
    assert torch.cuda.get_device_name() in checks["gpu"]
