"""Real sounds through real weights: a probe over YAMNet's embeddings tells the ten kinds of sound of ESC-10 apart."""

from pathlib import Path

import pytest
import yaml

from mmray import cli
from mmray.fusion.config import load_study
from mmray.pipelines import study
from tests.conftest import ROOT


@pytest.mark.slow  # 26 minutes of sound through YAMNet
def test_a_linear_probe_on_yamnet_knows_the_sounds_of_esc10(
    ray_session: None, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(test_data / "audio" / "esc10")
    words = ["--label-from", "parent", "--join", f"{folder}/labels.csv", "--on", "file"]
    assert cli.main(["manifest", folder, "-o", "esc10.parquet", *words]) == 0
    weights = test_data / "weights" / "yamnet_from_int8.h5"
    assert (
        cli.main(["extract", str(ROOT / "configs" / "esc10.yaml"), "--set", f"extractors.yamnet.weights={weights}"])
        == 0
    )
    config = ROOT / "configs" / "esc10-study.yaml"
    assert yaml.safe_load(config.read_text())["split"] == "given"
    result = study.run(load_study(str(config), ["classifiers=[logistic, linear_svc, mlp]"]), str(config))
    assert result["done"] == result["cells"]
    probe = {row["embeddings"]: row for row in result["leaderboard"] if row["classifier"] == "logistic"}
    assert probe["yamnet"]["samples"] == 318
    assert probe["yamnet"]["accuracy"] >= 0.92
    assert probe["yamnet_mean_max"]["accuracy"] >= 0.92
