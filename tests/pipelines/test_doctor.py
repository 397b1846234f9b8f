"""What `mmray doctor` finds: on this machine, for a configuration, and in a broken environment."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmray import cli
from mmray.extractors import registry
from mmray.generation import registry as generators
from mmray.models import catalogue
from mmray.models.tiny import make_tiny
from mmray.pipelines import machine
from tests.conftest import ROOT
from tests.pipelines.conftest import PLUGIN

FINE = {
    "torch": {"version": "2.13", "devices": []},
    "torchaudio": {"version": "2.11", "native": False},
    "torchvision": None,
    "transformers": {"version": "5.23"},
    "av": {"version": "18.1", "ffmpeg": "8.1", "missing": []},
    "onnxruntime": {"version": "1.31", "providers": ["CPUExecutionProvider"]},
    "ray": {"version": "2.60"},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMRAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "home"


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the probes of a fine machine tell; the caller breaks what it likes."""
    found: dict[str, Any] = dict(FINE)
    monkeypatch.setattr(machine, "probes", lambda: found)
    return found


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return exit code, result, checks by name and extractors by name."""
    code = cli.main(["doctor", *words, "--json"])
    result = json.loads(capsys.readouterr().out)
    checks = {one["name"]: one for one in result["checks"]}
    return code, result, checks, {one["name"]: one for one in result["extractors"]}


def test_this_machine_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, result, checks, extractors = told(capsys)
    assert code == 0
    assert result["ok"]
    assert set(checks) >= {"python", "torch", "gpu", "torchaudio", "torchvision", "transformers", "av", "onnxruntime"}
    assert set(checks) >= {"ray", "memory", "/dev/shm", "disk", "hub", "models"}
    assert all(set(one) == {"name", "ok", "detail", "mend"} and one["detail"] for one in result["checks"])
    assert set(extractors) == set(registry.names())
    keys = {"name", "runs", "checkpoint", "why", "mend", "licence", "extra"}
    assert all(set(one) == keys for one in [*result["extractors"], *result["generators"]])
    assert [one["name"] for one in result["generators"]] == list(generators.GENERATORS)


def test_a_generator_lacks_its_weights_and_its_package(
    probed: dict[str, Any], capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row() -> dict[str, Any]:
        _, result, _, _ = told(capsys)
        return next(one for one in result["generators"] if one["name"] == "dalle_mini")

    assert (row()["runs"], row()["why"], row()["licence"]) == (False, "not here (1940 MB)", "Apache-2.0")
    assert row()["mend"] == "mmray models pull dalle_mini"
    make_tiny(home / "models", names=["dalle_mini"])
    assert row()["runs"]
    assert "random weights" in row()["why"]
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "min_dalle" else found(name))
    assert (row()["runs"], row()["mend"], row()["extra"]) == (False, "pip install 'mmray[dalle-mini]'", "dalle-mini")


def test_python_is_what_the_package_asks_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (oldest, end) = re.findall(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text)[0]
    assert ((3, int(oldest)), (3, int(end) - 1)) == machine.PYTHON


def test_absent_weights_are_no_error_and_say_what_to_pull(
    probed: dict[str, Any], capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    code, _, checks, extractors = told(capsys)
    assert code == 0
    carried = sum(model.package is not None for model in catalogue.models())  # with packages that are installed
    assert checks["models"]["detail"].startswith(f"{carried} of ")
    assert extractors["descriptors"]["runs"]
    assert extractors["descriptors"]["checkpoint"] is None
    assert not extractors["yamnet"]["runs"]
    assert extractors["yamnet"]["why"] == "not here (15 MB)"
    assert extractors["yamnet"]["mend"] == "mmray models pull yamnet"
    assert extractors["yamnet"]["licence"] == "Apache-2.0"
    make_tiny(home / "models", names=["yamnet"])
    code, _, checks, extractors = told(capsys)
    assert checks["models"]["detail"].startswith(f"{carried + 1} of ")
    assert extractors["yamnet"]["runs"]
    assert "random weights" in extractors["yamnet"]["why"]


def test_a_configuration_is_looked_at_with_its_own_checkpoints(
    probed: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_tiny(tmp_path / "tiny", names=["clip", "sbert", "yolox"])
    cut = tmp_path / "tiny" / "sbert" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-5])
    entries = [
        {"name": "descriptors"},
        {"name": "clip", "as": "near", "model": str(tmp_path / "tiny" / "clip")},
        {"name": "clip", "as": "far", "model": "s3://somewhere/clip"},
        {"name": "sbert", "source": "text", "model": str(tmp_path / "tiny" / "sbert")},
        {"name": "yolo_onnx", "weights": str(tmp_path / "tiny" / "yolox" / "yolox.onnx")},
        {"name": "yamnet", "weights": str(tmp_path / "nowhere.h5")},
        {"name": "yamnet", "as": "pickled", "weights": str(tmp_path / "net.pkl")},
        {"name": "vggish", "as": "other", "weights": str(tmp_path / "tiny" / "yolox" / "yolox.onnx")},
    ]
    (tmp_path / "net.pkl").write_bytes(b"pickle")
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"manifest": "m.parquet", "store": "out", "extractors": entries}))
    code, _, _, extractors = told(capsys, str(config))
    assert code == 0
    assert {name: one["runs"] for name, one in extractors.items()} == {
        "descriptors": True, "near": True, "far": True, "sbert": False, "yolo_onnx": True, "yamnet": False,
        "pickled": False, "other": False,
    }  # fmt: skip
    assert "cut short" in extractors["sbert"]["why"]
    assert extractors["sbert"]["mend"] == "copy it again"
    assert "is a pickle" in extractors["pickled"]["why"]
    assert extractors["pickled"]["mend"].startswith("give a .h5")
    assert "yolox.onnx" in extractors["other"]["why"]
    assert extractors["other"]["mend"] == "give another checkpoint"
    assert "no such file" in extractors["yamnet"]["mend"]
    config.write_text(yaml.safe_dump({"manifest": "m", "store": "o", "extractors": [{"name": "yamnett"}]}))
    assert cli.main(["doctor", str(config)]) == 2


@pytest.mark.parametrize(
    ("name", "found", "detail", "mend"),
    [
        ("torch", "OSError: libtorch.so is missing", "libtorch", "pip install --force-reinstall torch"),
        ("torchvision", "RuntimeError: operator torchvision::nms does not exist", "nms", "pip uninstall torchvision"),
        ("transformers", None, "not installed", "pip install"),
        ("onnxruntime", "its import ends the process (signal 11)", "signal 11", "force-reinstall"),
        ("av", FINE["av"] | {"missing": ["h264", "aac"]}, "cannot decode h264, aac", "wheels"),
    ],
)
def test_a_broken_library_is_a_finding_with_its_mend(
    probed: dict[str, Any], capsys: pytest.CaptureFixture[str], name: str, found: Any, detail: str, mend: str
) -> None:
    probed[name] = found
    code, result, checks, extractors = told(capsys)
    assert (code, result["ok"], checks[name]["ok"]) == (1, False, False)
    assert detail in checks[name]["detail"]
    assert mend in checks[name]["mend"]
    needs = {"torch": "yamnet", "transformers": "clip", "onnxruntime": "yolo_onnx"}
    if name in needs:
        assert f"{name} does not work" in extractors[needs[name]]["why"]
        assert f"mend {name}, above" in extractors[needs[name]]["mend"]
    assert extractors["descriptors"]["runs"]
    assert cli.main(["doctor"]) == 1
    assert re.search(rf"^{name} +FAIL ", capsys.readouterr().out, re.MULTILINE)


def test_a_gpu_is_named_and_an_idle_one_is_advice(probed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    probed["torch"] = {"version": "2.13", "devices": [{"name": "NVIDIA H100", "memory_bytes": 80 * 10**9}]}
    code, _, checks, _ = told(capsys)
    assert code == 0
    assert checks["gpu"]["detail"] == "NVIDIA H100, 80 GB"
    assert checks["onnxruntime"]["mend"] == "pip install 'mmray[gpu]'"


def test_what_is_printed_has_a_line_for_each(probed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _, _ = told(capsys)
    assert cli.main(["doctor"]) == code == 0
    lines = capsys.readouterr().out.splitlines()
    checks, extractors, made = (len(result[key]) for key in ("checks", "extractors", "generators"))
    assert len(lines) == checks + extractors + made + 7
    able, makers = (sum(one["runs"] for one in result[key]) for key in ("extractors", "generators"))
    last = f"the core works; {able} of {extractors} extractors and {makers} of {made} generators can run here"
    assert lines[-1] == last
    assert lines[checks + 2].startswith("extractor ")
    assert max(map(len, lines[checks + 2 : checks + 3 + extractors])) <= 160


def test_a_broken_torchvision_and_third_party_do_not_stop_the_doctor(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "torchvision").mkdir(parents=True)
    (site / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (site / "onnxruntime.py").write_text("import os; os.abort()")
    (site / "torchvision-0.28.0.dist-info").mkdir()
    (site / "torchvision-0.28.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n"
    )
    about = site / "moody-1.0.dist-info"
    about.mkdir()
    (site / "moody.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mmray.extractors]\nmoody = moody:Moody\ngone = absent_module:Gone\n")
    environment = {**os.environ, "PYTHONPATH": str(site), "MMRAY_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "mmray.cli", "doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    checks = {one["name"]: one for one in result["checks"]}
    assert not checks["torchvision"]["ok"]
    assert "torchvision::nms" in checks["torchvision"]["detail"]
    assert "pip uninstall torchvision" in checks["torchvision"]["mend"]
    assert "signal 6" in checks["onnxruntime"]["detail"]
    assert checks["torch"]["ok"]
    assert checks["av"]["ok"]
    assert not checks["transformers"]["ok"]
    assert checks["transformers"]["mend"] == "first torchvision, above"
    extractors = {one["name"]: one for one in result["extractors"]}
    assert extractors["moody"]["runs"]
    assert not extractors["gone"]["runs"]
    assert "absent_module" in extractors["gone"]["why"]


def test_a_hanging_import_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("import time; time.sleep(60)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(machine, "TIMEOUT_S", 15)  # in which onnxruntime is to be imported before, on a busy machine
    monkeypatch.setattr(machine, "TOGETHER", (("onnxruntime", "ray"), ("absent_library",)))
    found = machine.probes()
    assert found["ray"] == "could not be imported within 15 s"
    assert found["absent_library"] is None
    assert set(found["onnxruntime"]) == {"version", "providers"}
