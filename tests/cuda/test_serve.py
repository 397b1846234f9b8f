"""The endpoint on a GPU: a CPU's pictures, models that make room for each other, and no more than the GPUs hold."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from mmray.errors import ConfigError
from mmray.generation.image import Image, ImageRequest
from mmray.models.torch_setup import ensure_torchaudio
from mmray.pipelines.serve import serving
from mmray.pipelines.serving.settings import ServeConfig

HALF = {"gpus": 0.5}
PORT = 21_080


@pytest.fixture(scope="module")
def large(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write three CLIPs of the real size (600 MB each) with random weights, and the tokenizer of the tiny one."""
    ensure_torchaudio()
    from transformers import CLIPConfig, CLIPModel

    folders = [tmp_path_factory.mktemp("clip") / name for name in "abc"]
    for folder in folders:
        about = json.loads((tiny / "clip" / "config.json").read_text())
        config = CLIPConfig()
        for name in ("vocab_size", "max_position_embeddings", "eos_token_id", "bos_token_id", "pad_token_id"):
            setattr(config.text_config, name, about["text_config"].get(name, getattr(config.text_config, name)))
        CLIPModel(config).save_pretrained(folder)
        for file in (tiny / "clip").iterdir():
            if file.suffix == ".json" and file.name != "config.json":
                (folder / file.name).write_bytes(file.read_bytes())
    return folders


@pytest.fixture(scope="module")
def url(ray_session: None, tiny: Path, large: list[Path]) -> Iterator[str]:
    picture = {"name": "image", "as": "sd", "model": str(tiny / "stable_diffusion"), "steps": 3, **HALF}
    texts = [{"name": "clip", "as": folder.name, "model": str(folder), "pool": "texts"} for folder in large]
    given = {"port": PORT, "models": [picture, *texts], "drain_s": 5}
    given["pools"] = {"texts": {"memory_gb": 0.8, **HALF}}
    with serving(ServeConfig.model_validate(given)) as found:
        yield found


def ask(url: str, route: str, **body: Any) -> Any:
    answer = httpx2.post(f"{url}/v1/{route}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_a_picture_is_that_of_a_cpu(url: str, tiny: Path) -> None:
    (found,) = ask(url, "images/generations", model="sd", prompt="a cat", size="64x64", seed=5)
    shown = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(found["b64_json"])))).astype(int)
    generate = Image(model="-", steps=3).load("cpu", {"model": str(tiny / "stable_diffusion")})
    (expected,) = generate([ImageRequest(prompt="a cat", width_px=64, height_px=64, seed=5)], lambda *_: None)
    assert np.abs(shown - expected.picture).max() <= 1


def test_a_model_that_makes_room_leaves_the_gpu(url: str, large: list[Path]) -> None:
    taken = []
    for folder in [*large, *large]:
        ask(url, "embeddings", model=folder.name, input=["a dog"])
        free, total = torch.cuda.mem_get_info()
        taken.append((total - free) / 2**20)
    assert max(taken[1:]) - taken[0] < 300, f"MB of the GPU after each: {taken}"


def test_more_than_the_gpus_is_refused(ray_session: None, tiny: Path) -> None:
    model = {"name": "image", "model": str(tiny / "stable_diffusion")}
    count = torch.cuda.device_count()
    for models, words in (
        ([{**model, "gpus": count + 1}], "do not fit"),
        ([{**model, "as": f"m{place}", "gpus": 1} for place in range(count + 1)], "all models together reserve"),
    ):
        config = ServeConfig.model_validate({"port": PORT, "models": models})
        with pytest.raises(ConfigError, match=words), serving(config):
            pytest.fail("it must not start")
