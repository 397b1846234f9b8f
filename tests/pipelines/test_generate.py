"""Batch generation: every prompt is accounted for, made once, and equal to what its generator makes alone."""

import io
import json
import os
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image as Pillow
from polars.testing import assert_frame_equal

from mmray.cli import main
from mmray.errors import ConfigError
from mmray.generation.image import Image, ImageRequest
from mmray.generation.spectrogram import Spectrogram, SpectrogramRequest
from mmray.models.clip import Towers
from mmray.pipelines import generate
from mmray.pipelines.prompts import load_generate
from mmray.pipelines.status import status
from mmray.pipelines.verify import verify
from tests.conftest import ROOT
from tests.near import assert_near_pictures
from tests.pipelines.conftest import ledger, rows, wait_for

PAINTING = "configs/painting.yaml"


@pytest.fixture
def painting(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs configs/painting.yaml, or another file, with tiny networks, small and short."""
    monkeypatch.chdir(ROOT)
    settings = [f"generator.model={tiny}/stable_diffusion", f"generator.sound_model={tiny}/auffusion"]
    settings += ["request.steps=2", "request.width_px=64", "resources.actors=1", "max_error_rate=1"]

    def run(file: str = PAINTING, **keys: Any) -> Any:
        return generate.run(load_generate(file, settings, store=str(tmp_path / "store")), file, **keys)

    return run


@pytest.fixture
def configured(tiny: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a configuration of small pictures."""

    def write(name: str = "pictures", **keys: Any) -> str:
        config: dict[str, Any] = {"kind": "generate", "store": str(tmp_path / name), "resources": {"actors": 1}}
        config["generator"] = {"name": "image", "model": str(tiny / "stable_diffusion"), "width_px": 64}
        config["generator"] |= {"height_px": 64, "steps": 2}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config | keys))
        return str(path)

    return write


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Pillow.open(io.BytesIO(data))).astype(int)


def sound(data: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(data)) as opened:
        return np.frombuffer(opened.readframes(opened.getnframes()), "<i2").astype(np.float32) / 32767


def test_the_six_pairs_are_made_once_and_a_new_prompt_alone(
    ray_session: None, painting: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    store, files = tmp_path / "store", tmp_path / "files"
    account = painting(folder=str(files))
    (counts,) = account["accounts"].values()
    assert (account["samples"], counts["ok"], account["files"]) == (6, 6, 12)
    assert account["adds_up"]
    assert verify(str(store))["ok"]
    assert status(str(store))["accounts"] == account["accounts"]

    made = rows(store, "spectrogram")
    config = yaml.safe_load((ROOT / PAINTING).read_text())
    fields = config["prompts"][3] | {"steps": 2, "width_px": 64}
    imprint = np.asarray(Pillow.open(ROOT / fields["imprint"]).convert("RGB"))
    paths = {"model": str(tiny / "stable_diffusion"), "sound_model": str(tiny / "auffusion")}
    alone = Spectrogram(**paths).load("cpu", paths)
    (wanted,) = alone([SpectrogramRequest(**fields | {"imprint": imprint})], lambda *_: None)
    found = made.row(3, named=True)
    assert (found["sample_id"], found["rate_hz"]) == ("prompt-004", wanted.rate_hz)
    assert np.abs(picture(found["picture_png"]) - wanted.picture).max() <= 1
    np.testing.assert_allclose(sound(found["sound_wav"]), wanted.sound, atol=1e-3)
    assert (files / "prompt-004.png").read_bytes() == found["picture_png"]
    assert (files / "prompt-004.wav").read_bytes() == found["sound_wav"]

    assert painting()["nothing_to_do"]

    config["prompts"][1]["guidance"] = 3.0
    config["prompts"].append({"prompt": "a house", "sound_prompt": "rain", "sample_id": "rain"})
    config["prompts"].append({"prompt": "a word " * 100, "sound_prompt": "rain", "sample_id": "long"})
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump(config))
    again = painting(str(more))
    (counts,) = again["accounts"].values()
    assert (counts["ok"], counts["failed"], counts["reasons"], again["changed"]) == (7, 1, {"bad_text": 1}, 1)
    after = pl.read_parquet(store / "ledger" / "*.parquet")
    redone = after.filter(pl.col("run_id") == again["run_id"])
    assert sorted(redone["sample_id"]) == ["long", "prompt-002", "rain"]
    (detail,) = redone.filter(pl.col("status") == "failed")["detail"]
    assert detail.startswith("prompt: ")
    kept = pl.col("sample_id").is_in(["prompt-001", "prompt-003", "prompt-004", "prompt-005", "prompt-006"])
    assert_frame_equal(rows(store, "spectrogram").filter(kept), made.filter(kept))
    assert verify(str(store))["ok"]


def test_a_manifest_of_prompts_gives_the_best_of_some_seeds(
    ray_session: None, configured: Callable[..., str], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "media").mkdir()
    start = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    Pillow.fromarray(start).save(tmp_path / "media" / "start.png")
    (tmp_path / "media" / "torn.png").write_bytes(b"\x89PNG, and no more")
    lines = [
        {"sample_id": "house", "prompt": "a house", "label": "building"},
        {"sample_id": "begun", "prompt": "a tree", "image": "start.png", "strength": 1.0, "seed": 7},
        {"sample_id": "torn", "prompt": "a tree", "image": "torn.png"},
    ]
    listed = tmp_path / "media" / "prompts.jsonl"
    listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = configured(manifest=str(listed), seeds=2, best=1, scores={"clip": str(tiny / "clip")}, max_error_rate=0.3)
    words = ["generate", file, "--files", str(tmp_path / "files"), "--json"]
    assert main(words) == 1  # more failed than max_error_rate
    account = json.loads(capsys.readouterr().out)
    (counts,) = account["accounts"].values()
    assert (counts["ok"], counts["failed"], counts["reasons"]) == (4, 2, {"corrupt": 2})

    made = rows(tmp_path / "pictures", "image")
    assert list(zip(made["sample_id"], made["seed"], strict=True)) == [
        ("begun", 7), ("begun-2", 8), ("house", 0), ("house-2", 1),
    ]  # fmt: skip
    generator = Image(model=str(tiny / "stable_diffusion"), width_px=64, height_px=64, steps=2)
    alone = generator.load("cpu", {"model": generator.model})
    for row, request in ((0, {"prompt": "a tree", "image": start, "strength": 1.0, "seed": 7}), (3, {"seed": 1})):
        (wanted,) = alone([ImageRequest(**{"prompt": "a house", **request})], lambda *_: None)
        assert np.abs(picture(made["picture_png"][row]) - wanted.picture).max() <= 1

    ranked = made.sort("clip", descending=True).unique(pl.col("sample_id").str.head(5), keep="first")
    best = ranked["sample_id"].to_list()
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == sorted(f"{name}.png" for name in best)
    samples = pl.read_parquet(tmp_path / "pictures" / "manifest.parquet")
    assert samples.filter(pl.col("prompt_id") == "house")["label"].to_list() == ["building"] * 2


@pytest.mark.slow
def test_pictures_are_compared_with_the_most_different_frames_of_the_video(
    ray_session: None, configured: Callable[..., str], clips: Path, tiny: Path, tmp_path: Path
) -> None:
    video = str(next(clips.rglob("*.mp4")))
    listed = [
        {"prompt": "a circle", "sample_id": "circle", "uri": video},
        {"prompt": "a square", "sample_id": "square"},
    ]
    file = configured(prompts=listed, seeds=2, scores={"clip": str(tiny / "clip")}, frames=5)
    account = generate.run(load_generate(file), file)
    names = {account["names"][number]: counts for number, counts in account["accounts"].items()}
    assert (names["image"]["ok"], names["frames"]["ok"], names["frames"]["skipped"]) == (4, 1, 3)
    assert account["adds_up"]

    store = tmp_path / "pictures"
    found = pl.read_parquet(store / "likeness" / "*.parquet")
    assert (found["sample_id"].to_list(), found["frames"].to_list()) == (["circle", "circle-2"], [5, 5])
    frames, made = rows(store, "clip"), rows(store, "image")
    seen = np.stack(frames["embedding"].to_list())
    towers = Towers(str(tiny / "clip"), "float32", "cpu")
    pictures = [np.asarray(Pillow.open(io.BytesIO(data))) for data in made["picture_png"][:2]]
    cosines = np.stack([towers.pictures([one])[0] for one in pictures]) @ seen.T
    np.testing.assert_allclose(found["mean"], cosines.mean(1), atol=1e-4)
    np.testing.assert_allclose(found["most"], cosines.max(1), atol=1e-4)
    assert found["most_start_s"].to_list() == [frames["start_s"][int(one)] for one in cosines.argmax(1)]
    assert account["likeness"]["pictures"] == 2
    assert verify(str(store))["ok"]
    assert generate.run(load_generate(file), file)["nothing_to_do"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "give prompts or a manifest"),
        ({"prompts": [{"prompt": "a"}, {"promt": "a"}]}, r"unknown key 'prompts\[1\].promt'; did you mean 'prompt'"),
        ({"prompts": [{"prompt": "a"}, {"prompt": "b", "steps": 0}]}, r"prompts\[1\].steps: .* \(given: 0\)"),
        ({"prompts": [{"prompt": "a"}], "request": {"stps": 2}}, "'request.stps'; did you mean 'steps'"),
        ({"prompts": [{"steps": 3}]}, r"'prompts\[0\].prompt' is missing"),
        ({"prompts": [{"prompt": "a", "image": "gone.png"}]}, r"prompts\[0\].image: .*gone.png cannot be read"),
        ({"prompts": [{"prompt": "a", "image": 3}]}, r"prompts\[0\].image: is the path of a picture"),
        ({"prompts": [{"prompt": "a", "sample_id": "x"}] * 2}, "rows 1 and 2 have the same sample_id 'x'"),
        ({"prompts": [{"prompt": "a"}], "best": 1}, "best: needs scores"),
        ({"prompts": [{"prompt": "a"}], "frames": 32}, "frames: needs a model to compare by"),
        ({"prompts": [{"prompt": "a"}], "scores": {"clip": "./none"}}, "scores.clip: "),
        ({"prompts": [{"prompt": "a", "start_s": 1}, {"prompt": "a", "start_s": "x"}]}, "prompts: .*'x'"),
        ({"prompts": [{"prompt": "a"}], "scores": {"clap": "laion/clap-htsat-unfused"}}, "scores.clap: .* leave it"),
        ({"prompts": [{"prompt": "a"}], "generator": {"name": "imag"}}, "'imag' .*did you mean 'image'"),
        ({"prompts": [{"prompt": "a"}], "generator": {"name": "image", "stps": 2}}, "generator.stps'; did you mean"),
        ({"prompts": [{"prompt": "a", "sample_id": "../../etc/x"}]}, "outside of the folder"),
        ({"prompts": [{"prompt": "a"}], "generator": {"name": "image", "model": "./none"}}, "generator.model: "),
    ],
)
def test_what_is_wrong_is_named_before_any_work(
    configured: Callable[..., str], tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    file = configured(**keys)
    with pytest.raises(ConfigError, match=words):
        generate.run(load_generate(file), file, folder=str(tmp_path / "files"))
    assert not (tmp_path / "pictures").exists()


def test_a_column_that_is_no_field_is_named(configured: Callable[..., str], tmp_path: Path) -> None:
    listed = tmp_path / "prompts.csv"
    listed.write_text("sample_id,prompt,negativ_prompt\n1,a house,grey\n")
    file = configured(manifest=str(listed))
    with pytest.raises(ConfigError, match=r"prompts.csv: unknown column 'negativ_prompt'; did you mean 'negative_"):
        generate.run(load_generate(file), file)
    listed.write_text("sample_id,prompt,steps\n1,a house,3\n2,a tree,many\n")
    with pytest.raises(ConfigError, match=r"prompts.csv: row 2.steps: "):
        generate.run(load_generate(file), file)


@pytest.mark.slow
def test_a_killed_run_goes_on(
    configured: Callable[..., str], ray_session: None, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = {"name": "image", "model": str(tiny / "stable_diffusion"), "width_px": 64, "height_px": 64}
    generator |= {"steps": 30, "batch_size": 1}
    keys = {"generator": generator, "prompts": [{"prompt": f"{n} houses"} for n in range(12)]}
    undisturbed = configured("undisturbed", **keys)
    account = generate.run(load_generate(undisturbed), undisturbed)
    file, store = configured("killed", **keys), tmp_path / "killed"
    command = [sys.executable, "-m", "mmray.cli", "generate", file]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": ""}) as process:
        try:
            wait_for(lambda: len(list(store.glob("ledger/*.parquet"))) > 0)
        finally:
            process.kill()
    before = pl.read_parquet(store / "ledger" / "*.parquet")
    assert 0 < before.height < 12, "killed too early or too late to prove anything"
    again = generate.run(load_generate(file), file)
    assert again["accounts"] == account["accounts"]
    after = pl.read_parquet(store / "ledger" / "*.parquet")
    assert set(before["sample_id"]) == set(after.filter(pl.col("run_id") != again["run_id"])["sample_id"])
    found, expected = (rows(folder, "image") for folder in (store, tmp_path / "undisturbed"))
    assert_frame_equal(found.drop("picture_png"), expected.drop("picture_png"))
    for one, other in zip(found["picture_png"], expected["picture_png"], strict=True):
        assert_near_pictures(picture(one), picture(other))
    assert_frame_equal(ledger(store), ledger(tmp_path / "undisturbed"))
    assert verify(str(store))["broken"] == []
