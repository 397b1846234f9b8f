"""DALL·E mini where other generators go: `mmray generate`, the endpoint, the doctor's list."""

import base64
import importlib.util
import io
import os
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from mmray.errors import ConfigError
from mmray.generation.dalle_mini import DalleMini, DalleMiniRequest
from mmray.pipelines import generate
from mmray.pipelines.prompts import load_generate
from mmray.pipelines.serving.served import prepare
from mmray.pipelines.serving.settings import ServeConfig
from mmray.pipelines.verify import verify
from tests.pipelines.conftest import rows

PORT = 21_150

if importlib.util.find_spec("min_dalle") is None and not os.environ.get("CI"):
    pytest.skip("min-dalle is not installed: pip install 'mmray[dalle-mini]'", allow_module_level=True)


def served(tiny: Path, **keys: Any) -> ServeConfig:
    entry = {"name": "dalle_mini", "as": "dalle", "model": str(tiny / "dalle_mini"), **keys}
    return ServeConfig.model_validate({"port": PORT, "models": [entry], "drain_s": 1})


def apart(data: bytes, tiny: Path, **settings: Any) -> int:
    """Return by how much a picture differs from that of the generator alone, which has another number of threads."""
    alone = DalleMini(**settings).load("cpu", {"model": str(tiny / "dalle_mini")})
    (wanted,) = alone([DalleMiniRequest(prompt="a dog", seed=7)], lambda *_: None)
    return int(np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - wanted.picture).max())


def written(tiny: Path, folder: Path, **keys: Any) -> str:
    config: dict[str, Any] = {"kind": "generate", "store": str(folder / "store"), "resources": {"actors": 1}}
    config["generator"] = {"name": "dalle_mini", "model": str(tiny / "dalle_mini"), "guidance": 8}
    config["prompts"] = [{"prompt": "a dog", "seed": 7}, {"prompt": "a dog " * 40}]
    file = folder / "dalle.yaml"
    file.write_text(yaml.safe_dump(config | keys))
    return str(file)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"request": {"steps": 3}}, "unknown key 'request.steps'"),
        ({"prompts": [{"prompt": "a", "width_px": 512}]}, r"prompts\[0\].width_px"),
        ({"generator": {"name": "dalle_mini", "batch_size": 4}}, "generator.batch_size"),
        ({"generator": {"name": "dalle_mini", "model": "./none"}}, "generator.model: "),
        ({"scores": {"clap": "laion/clap-htsat-unfused"}}, "scores.clap: .* leave it"),
    ],
)
def test_what_is_wrong_is_named_before_any_work(tiny: Path, tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    file = written(tiny, tmp_path, **keys)
    with pytest.raises(ConfigError, match=words):
        generate.run(load_generate(file), file)
    assert not (tmp_path / "store").exists()


def test_without_the_package_the_extra_is_named_before_any_work(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    file = written(tiny, tmp_path)
    with pytest.raises(ConfigError, match=r"generator.name: .*pip install 'mmray\[dalle-mini\]'"):
        generate.run(load_generate(file), file)
    with pytest.raises(ConfigError, match=r"models\[0\].name: .*pip install 'mmray\[dalle-mini\]'"):
        prepare(served(tiny), "serve.yaml")


def test_it_is_served_as_a_model_of_pictures(tiny: Path) -> None:
    (one,) = prepare(served(tiny), "serve.yaml")
    assert one.about["generator"] == "dalle_mini"
    assert one.about["routes"] == ["/v1/images/generations", "/v1/images/edits"]
    assert one.batch == 1


@pytest.mark.slow
def test_prompts_become_pictures_and_one_that_is_too_long_fails_alone(
    ray_session: None, tiny: Path, tmp_path: Path
) -> None:
    file = written(tiny, tmp_path, max_error_rate=1)
    account = generate.run(load_generate(file), file)
    (counts,) = account["accounts"].values()
    assert (counts["ok"], counts["failed"], counts["reasons"]) == (1, 1, {"bad_text": 1})
    (detail,) = pl.read_parquet(tmp_path / "store" / "ledger" / "*.parquet").filter(pl.col("status") == "failed")[
        "detail"
    ]
    assert "tokens, and" in detail
    assert verify(str(tmp_path / "store"))["ok"]
    (made,) = rows(tmp_path / "store", "dalle_mini")["picture_png"]
    assert apart(made, tiny, guidance=8) <= 1


@pytest.mark.slow
def test_the_endpoint_gives_the_same_picture_and_names_what_it_cannot_heed(ray_session: None, tiny: Path) -> None:
    from mmray.pipelines.serve import serving

    with serving(served(tiny)) as url, httpx2.Client(base_url=url, timeout=300) as http:
        body = {"prompt": "a dog", "seed": 7, "size": "256x256"}
        (one,) = http.post("/v1/images/generations", json=body).json()["data"]
        assert apart(base64.b64decode(one["b64_json"]), tiny) <= 1
        for more, field in (
            ({"steps": 3}, "steps"),
            ({"negative_prompt": "ugly"}, "negative_prompt"),
            ({"size": "512x512"}, "size"),
            ({"prompt": "a dog " * 40}, "prompt"),
        ):
            answer = http.post("/v1/images/generations", json=body | more)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
