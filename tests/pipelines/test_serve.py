"""The endpoint keeps its promises, with tiny random networks behind the real routes, asked by OpenAI's own client."""

import asyncio
import base64
import io
import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import httpx2
import numpy as np
import openai
import polars as pl
import psutil
import pytest
import torch
from PIL import Image
from prometheus_client import CollectorRegistry
from ray import serve

import mmray
from mmray.errors import ConfigError
from mmray.fusion import network_files, networks
from mmray.fusion.encoders import Mlp
from mmray.fusion.examples import Batch
from mmray.fusion.network_files import InputFile, NetworkFile
from mmray.fusion.training import Network
from mmray.generation import files
from mmray.pipelines.serving.settings import ServeConfig, key_digests, load_serve
from mmray.tables import features
from mmray.tables.store import open_store
from tests.conftest import ROOT

KEY, OTHER = "a-key-of-the-test-suite", "another-key-of-the-test-suite"
PNG = files.png(np.random.default_rng(0).integers(0, 256, (80, 96, 3)).astype(np.uint8))
WAV = files.wav(np.sin(np.arange(16_000) / 9).astype(np.float32) / 2, 16_000)


def port() -> int:
    """Return a free port that is none of Ray's."""
    for candidate in range(24_000, 30_000):
        with socket.socket() as free:
            if free.connect_ex(("127.0.0.1", candidate)):
                return candidate
    raise AssertionError("no port is free")


def config(tiny: Path, **keys: Any) -> ServeConfig:
    models = [
        {"name": "image", "as": "sd", "model": str(tiny / "stable_diffusion"), "batch_size": 8, "steps": 3},
        {"name": "audio", "as": "ldm", "model": str(tiny / "audioldm"), "steps": 2, "length_s": 0.5},
        {
            "name": "spectrogram", "as": "both", "model": str(tiny / "stable_diffusion"),
            "sound_model": str(tiny / "auffusion"),
        },
        {"name": "caption", "as": "blip", "model": str(tiny / "blip"), "max_tokens": 5},
        {"name": "labels", "as": "fit", "model": str(tiny / "clip"), "sound_model": str(tiny / "clap")},
        {"name": "sbert", "as": "minilm", "model": str(tiny / "sbert")},
        {"name": "whisper", "model": str(tiny / "whisper"), "gate": None},
    ]  # fmt: skip
    given = {"port": port(), "models": [{**one, "pool": "tiny"} for one in models], "pools": {"tiny": {"memory_gb": 1}}}
    given |= {"limits": {"prompt_chars": 200, "side_px": 128, "steps": 400, "n": 4, "upload_bytes": 2_000_000}}
    return ServeConfig.model_validate(given | {"drain_s": 5} | keys)


@pytest.fixture(scope="module")
def store(
    ray_session: None, corpus: Path, entries: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Extract what is heard and seen in three clips."""
    folder = str(tmp_path_factory.mktemp("served") / "store")
    asked = {"manifest": str(corpus), "store": folder, "extractors": [entries[1], entries[3]], "max_error_rate": 1}
    mmray.extract(asked | {"resources": {"actors": 1}}, 3)
    return folder


@pytest.fixture(scope="module")
def network(store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a fusion network over both, as training does."""
    torch.manual_seed(0)
    found = {name: features.extractor_id(open_store(store), name) for name in ("yamnet", "clip")}
    dims = {name: mmray.load(store, number).matrix.shape[1] for name, number in found.items()}
    inputs = tuple(
        InputFile(
            **{"as": name}, extractor=number, pooling="mean", windows=None, dim=dims[name], encoder=Mlp(hidden=(8,))
        )
        for name, number in found.items()
    )
    settings = Network.model_validate({"fusion": "gated", "width": 8})
    about = NetworkFile(network=settings, inputs=inputs, classes=("no", "perhaps", "yes"), provenance={"key": "k"})
    folder = str(tmp_path_factory.mktemp("trained") / "both_gated")
    network_files.save(networks.make(about.shapes, 3, settings), folder, about)
    return folder


@pytest.fixture(scope="module")
def url(
    ray_session: None, tiny: Path, store: str, network: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    from mmray.pipelines.serve import serving

    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n{OTHER}\n")
    more = {"keys_file": str(keys), "rate_per_minute": 100_000, "store": store, "trained": [network]}
    with serving(config(tiny, **more)) as found:
        yield found


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60) as found:
        yield found


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {KEY}"}) as found:
        yield found


def pixels(text: str | None) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text or ""))))


def error(answer: httpx2.Response) -> dict[str, Any]:
    found = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return dict(found)


def test_the_openai_client_makes_images_and_a_seed_decides_them(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "sd", "prompt": "a cat", "size": "64x72"}
    both = client.images.generate(**asked, n=2, response_format="b64_json", extra_body={"seed": 5}).data or []
    (second,) = client.images.generate(**asked, extra_body={"seed": 6}).data or []
    first, other = (pixels(one.b64_json) for one in both)
    assert first.shape == (72, 64, 3)
    assert (first != other).any()
    assert np.abs(pixels(second.b64_json).astype(int) - other).max() <= 1


def test_the_openai_client_gets_a_picture_by_its_url(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "sd", "prompt": "a cat", "size": "64x72", "n": None}
    (as_base64,) = client.images.generate(**asked).data or []
    (as_url,) = client.images.generate(**asked, response_format="url", quality="auto", background="auto").data or []
    with urllib.request.urlopen(as_url.url or "") as opened:
        assert opened.read() == base64.b64decode(as_base64.b64_json or "")


def test_the_openai_client_knows_what_went_wrong(client: openai.OpenAI, url: str) -> None:
    create = client.images.generate
    with pytest.raises(openai.BadRequestError, match="steps: is 401, and at most 400 here"):
        create(prompt="x", extra_body={"steps": 401})
    with pytest.raises(openai.NotFoundError, match="there is no model 'dall-e-9'"):
        create(prompt="x", model="dall-e-9")
    with pytest.raises(openai.AuthenticationError, match="show a key"):
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0).models.list()


def test_the_openai_client_edits_an_image(client: openai.OpenAI) -> None:
    found = client.images.edit(image=("a.png", PNG), prompt="a dog", model="sd", extra_body={"strength": 0.7})
    assert pixels((found.data or [])[0].b64_json).shape == (80, 96, 3)


def test_the_openai_client_embeds_texts_as_the_batch_job_does(client: openai.OpenAI, tiny: Path) -> None:
    from mmray.extractors.sbert import Sbert
    from mmray.specs import Text

    texts = ["a circle", "ein Dreieck"]
    extract = Sbert(model=str(tiny / "sbert")).load("cpu", str(tiny / "sbert"))
    expected = np.concatenate([rows.columns["embedding"] for rows in extract([Text(text) for text in texts])])  # type: ignore[union-attr]
    as_base64 = client.embeddings.create(model="minilm", input=texts)  # what the client asks for by itself
    as_floats = client.embeddings.create(model="minilm", input=texts[0], encoding_format="float")
    np.testing.assert_allclose([one.embedding for one in as_base64.data], expected, atol=1e-5)
    np.testing.assert_allclose(as_floats.data[0].embedding, expected[0], atol=1e-5)


def test_the_openai_client_transcribes_in_every_form(client: openai.OpenAI) -> None:
    create = client.audio.transcriptions.create
    file = ("a.wav", WAV)
    assert isinstance(create(file=file, model="whisper").text, str)
    assert create(file=file, model="whisper", response_format="verbose_json").duration == pytest.approx(1.0)
    assert "WEBVTT" in str(create(file=file, model="whisper", response_format="vtt"))
    for language in ("de", "en"):
        given: dict[str, Any] = {"language": language, "temperature": 0, "timestamp_granularities": ["segment"]}
        told = create(file=file, model="whisper", response_format="verbose_json", **given)
        assert told.language == language
        assert all(one.avg_logprob < 0 < one.compression_ratio for one in told.segments or [])


def test_the_openai_client_lists_the_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {
        "sd", "ldm", "both", "blip", "fit", "minilm", "whisper", "both_gated", "search",
    }  # fmt: skip
    assert client.models.retrieve("sd").id == "sd"


def test_sounds_captions_labels_and_stories(http: httpx2.Client) -> None:
    (sound,) = http.post("/v1/audio/generations", json={"prompt": "rain", "length_s": 0.4}).json()["data"]
    with av.open(io.BytesIO(base64.b64decode(sound["b64_json"]))) as opened:
        heard = sum(frame.samples for frame in opened.decode(audio=0))  # type: ignore[union-attr]
    assert heard == round(0.4 * sound["rate_hz"])
    assert isinstance(http.post("/v1/captions", files={"image": PNG}).json()["data"][0]["text"], str)
    for medium in (PNG, WAV):
        asked = http.post("/v1/scores", files={"file": medium}, data={"labels": ["a cat", "a dog"]})
        shares = {one["label"]: one["score"] for one in asked.json()["data"]}
        assert set(shares) == {"a cat", "a dog"}
        assert sum(shares.values()) == pytest.approx(1)
    (story,) = http.post("/v1/stories", json={"prompt": "rain", "size": "64x64", "length_s": 1}).json()["data"]
    with av.open(io.BytesIO(base64.b64decode(story["video_b64"]))) as opened:
        assert [stream.type for stream in opened.streams] == ["video", "audio"]
        assert (opened.duration or 0) / 1e6 == pytest.approx(1, abs=0.15)


def test_what_is_made_says_how_well_it_fits_its_words_and_the_best_come_first(http: httpx2.Client) -> None:
    def made(path: str, **asked: Any) -> Any:
        return http.post(path, json={"prompt": "a cat", "steps": 2, "seed": 5} | asked).json()["data"]

    shared = {"sound_prompt": "rain", "width_px": 96, "imprint_text": "HI", "strength": 0.5, "n": 3}
    every = made("/v1/spectrograms/generations", **shared)
    assert [one["seed"] for one in every] == [5, 6, 7]
    products = {one["seed"]: max(0, one["scores"]["clip"]) * max(0, one["scores"]["clap"]) for one in every}
    two = made("/v1/spectrograms/generations", best=2, **shared)
    assert [products[one["seed"]] for one in two] == sorted(products.values(), reverse=True)[:2]
    assert two[0] == next(one for one in every if one["seed"] == two[0]["seed"])
    pictures = made("/v1/images/generations", size="64x64", n=3, best=3)
    cosines = [one["scores"]["clip"] for one in pictures]
    assert cosines == sorted(cosines, reverse=True)
    (sound,) = made("/v1/audio/generations", length_s=0.4)
    assert set(sound["scores"]) == {"clap"}
    (story,) = made("/v1/stories", size="64x64", length_s=0.4)
    assert set(story["scores"]) >= {"clip", "clap"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/images/generations", {"prompt": "x", "n": 2, "best": 3}, "best"),
        (
            "/v1/spectrograms/generations",
            {"prompt": "x", "sound_prompt": "x", "imprint_text": "Ω"},
            "imprint_text",
        ),
        ("/v1/spectrograms/generations", {"prompt": "x", "sound_prompt": "x", "imprint": "AAAA"}, "imprint"),
        ("/v1/images/generations", {"prompt": "x" * 201}, "prompt"),
        ("/v1/images/generations", {"prompt": ""}, "prompt"),
        ("/v1/images/generations", {"prompt": "x", "n": 5}, "n"),
        ("/v1/images/generations", {"prompt": "x", "steps": 401}, "steps"),
        ("/v1/images/generations", {"prompt": "x", "size": "136x64"}, "size"),
        ("/v1/images/generations", {"prompt": "x", "size": "65x64"}, "size"),
        ("/v1/images/generations", {"prompt": "x", "size": "big"}, "size"),
        ("/v1/images/generations", {"prompt": "x", "stepps": 4}, "stepps"),
        ("/v1/images/generations", {"prompt": "x", "negative_prompt": "y", "guidance": 1}, "negative_prompt"),
        ("/v1/images/generations", {"prompt": "x", "output_format": "jpeg"}, "output_format"),
        ("/v1/images/generations", {"prompt": "x", "n": "2"}, "n"),
        ("/v1/images/generations", {"prompt": "x", "guidance": float("nan")}, "guidance"),
        ("/v1/images/generations", {"prompt": "x", "model": "m" * 1_000_000}, "model"),
        ("/v1/spectrograms/generations", {"prompt": "x", "sound_prompt": "x", "width_px": 65}, "width_px"),
        ("/v1/images/generations", {"prompt": "word " * 40 + "w" * 0, "model": "minilm"}, "model"),
        ("/v1/audio/generations", {"prompt": "x", "length_s": 31}, "length_s"),
        ("/v1/embeddings", {"input": [], "model": "minilm"}, "input"),
        ("/v1/embeddings", {"input": "  ", "model": "minilm"}, "input"),
    ],
)
def test_a_wrong_field_is_named(http: httpx2.Client, path: str, body: dict[str, Any], param: str) -> None:
    answer = http.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert (answer.status_code, error(answer)["param"]) == (400, param)
    assert error(answer)["message"].startswith((param, repr(body.get("model"))))  # what clients show is the message
    assert len(error(answer)["message"]) < 1000


def test_a_form_is_refused_with_the_name_of_its_field(http: httpx2.Client) -> None:
    for path, field, medium, data, param in [
        ("scores", "file", PNG, {"labels": ["a", "a"]}, "labels"),
        ("scores", "file", PNG, {"labels": ["a"], "template": "none"}, "template"),
        ("images/edits", "image", PNG, {"prompt": "x", "mask": "x"}, "mask"),
        ("audio/transcriptions", "file", WAV, {"language": "xx"}, "language"),
        ("audio/transcriptions", "file", WAV, {"prompt": "Hello"}, "prompt"),
        ("audio/transcriptions", "file", WAV, {"temperature": "0.5"}, "temperature"),
        ("audio/transcriptions", "file", WAV, {"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ("audio/transcriptions", "file", PNG, {}, "file"),
        ("search", "audio", b"ffconcat version 1.0\nfile a.wav\n", {}, "audio"),
        ("search", "image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, "image"),
    ]:
        answer = http.post(f"/v1/{path}", files={field: medium}, data=data)
        assert (answer.status_code, error(answer)["param"]) == (400, param), answer.text
    no_form = http.post("/v1/captions", json={"image": "x"})
    assert (no_form.status_code, error(no_form)["param"]) == (400, "body")


def test_what_is_not_there_and_what_cannot_be_read(http: httpx2.Client) -> None:
    unknown = http.post("/v1/images/generations", json={"prompt": "x", "model": "nobody"})
    assert (unknown.status_code, error(unknown)["code"]) == (404, "model_not_found")
    assert error(http.get("/v1/nothing"))["code"] == "not_found"
    assert http.get("/v1/images/generations").status_code == 405
    unreadable = [
        ("captions", "image", {}),
        ("audio/transcriptions", "file", {}),
        ("scores", "file", {"labels": ["a"]}),
    ]
    for path, field, data in unreadable:
        answer = http.post(f"/v1/{path}", files={field: b"no medium"}, data=data)
        assert (answer.status_code, error(answer)["param"]) == (400, field)
    assert error(http.post("/v1/captions", data={"prompt": "x"}))["param"] == "image"
    assert error(http.post("/v1/images/generations", content=b"{", headers={"Content-Type": "application/json"}))


def test_a_body_that_is_too_large_is_refused_before_it_is_read(http: httpx2.Client) -> None:
    declared = http.post("/v1/captions", files={"image": b"x" * 2_100_000})

    def parts() -> Iterator[bytes]:  # of unknown length
        for _ in range(100):
            yield b" " * 100_000

    streamed = http.post("/v1/embeddings", content=parts(), headers={"Content-Type": "application/json"})
    for answer in (declared, streamed):
        assert (answer.status_code, error(answer)["code"]) == (413, "body_too_large")


def test_keys_are_wanted_and_jobs_are_those_of_a_key(url: str, http: httpx2.Client) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
        answer = httpx2.get(f"{url}/v1/models", headers=headers)
        assert (answer.status_code, error(answer)["type"]) == (401, "authentication_error")
    assert httpx2.get(f"{url}/health").json() == {"status": "ok"}
    job = http.post("/v1/images/generations", json={"prompt": "x", "size": "64x64", "background": True}).json()["id"]
    strange = httpx2.get(f"{url}/v1/jobs/{job}", headers={"Authorization": f"Bearer {OTHER}"})
    assert (strange.status_code, error(strange)["code"]) == (404, "job_not_found")


def test_an_upload_is_classified_by_what_the_batch_job_makes_of_it(
    http: httpx2.Client, store: str, network: str, corpus: Path
) -> None:
    known, about = network_files.load(network)
    found = {one.as_: mmray.load(store, one.extractor) for one in about.inputs}
    sample = min(set(found["yamnet"].ids) & set(found["clip"].ids))
    rows = {name: torch.tensor(one.matrix[one.ids.index(sample)])[None, None] for name, one in found.items()}
    with torch.inference_mode():
        there = {name: torch.ones(1, 1, dtype=torch.bool) for name in rows}
        expected = known(Batch(rows, there, torch.zeros(1, dtype=torch.int64))).softmax(1)[0].tolist()
    uri = next(row["uri"] for row in pl.read_parquet(corpus).to_dicts() if row["sample_id"] == sample)
    medium = Path(uri) if Path(uri).is_absolute() else corpus.parent / uri
    answer = http.post("/v1/classifications", files={"file": medium.read_bytes()}).json()
    assert answer["inputs"] == {"yamnet": True, "clip": True}
    shares = {one["label"]: one["score"] for one in answer["data"]}
    assert [shares[name] for name in about.classes] == pytest.approx(expected, abs=1e-4)
    only_heard = http.post("/v1/classifications", files={"file": WAV}).json()
    assert only_heard["inputs"] == {"yamnet": True, "clip": False}
    nothing = http.post("/v1/classifications", files={"file": b"no medium"})
    assert (nothing.status_code, error(nothing)["param"]) == (400, "file")


def test_a_store_is_searched_as_the_command_line_does(http: httpx2.Client, store: str) -> None:
    from mmray.pipelines import search

    expected = search.run(store, search.Question("text", "a circle"))["results"]
    found = http.post("/v1/search", json={"text": "a circle"}).json()["data"]
    assert [one["sample_id"] for one in found] == [one["sample_id"] for one in expected]
    assert all("uri" in one for one in expected)
    assert not any("uri" in one for one in found), "where files lie is nobody's business"
    seen = http.post("/v1/search", files={"image": PNG}, data={"k": "1"})
    assert seen.status_code == 200, seen.text
    (nearest,) = seen.json()["data"]
    assert nearest["rank"] == 1
    for body, param in [
        ({"text": "x", "within": "vggish"}, "within"),
        ({"text": "x", "where": ["label=nothing"]}, "where"),
        ({"sample": "nothing"}, "sample"),
        ({"text": "x", "within": "clip", "pooling": "max"}, "pooling"),
        ({"text": "x", "pooling": "max"}, "pooling"),
        ({"text": "x", "sample": "y"}, "sample"),
        ({"image": "/etc/passwd"}, "image"),
    ]:
        answer = http.post("/v1/search", json=body)
        assert (answer.status_code, error(answer)["param"]) == (400, param), body
        assert store not in error(answer)["message"]
        assert "the the" not in error(answer)["message"]


def test_readiness_and_metrics(http: httpx2.Client) -> None:
    assert http.get("/ready").json()["ready"]
    http.post("/v1/embeddings", json={"input": "x", "model": "minilm"})
    told = http.get("/metrics").text
    assert 'mmray_http_requests_total{route="/v1/embeddings",status="200"}' in told
    assert 'mmray_model_seconds_count{model="minilm",outcome="ok"}' in told
    assert 'mmray_model_under_way{model="minilm"} 0.0' in told
    assert 'mmray_jobs{status="running"}' in told


@pytest.mark.parametrize(
    ("told", "able"),
    [
        ({"pool": "HEALTHY", "own": "HEALTHY"}, True),
        ({"pool": "UPSCALING", "own": "DOWNSCALING"}, True),
        ({}, True),
        ({"pool": "HEALTHY", "own": "UPDATING"}, False),
        ({"pool": "UNHEALTHY", "own": "HEALTHY"}, False),
    ],
)
def test_models_that_scale_are_ready(told: dict[str, str], able: bool) -> None:
    from mmray.pipelines.serving.app import readiness

    found, states = readiness({"a": "pool", "b": "pool", "own": "own"}, told)
    assert found is able
    assert set(states) == {"a", "b", "own"}


def events(http: httpx2.Client, job: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with http.stream("GET", f"/v1/jobs/{job}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_a_job_tells_its_steps_and_gives_what_waiting_gives(http: httpx2.Client) -> None:
    asked = {"prompt": "a cat", "size": "64x64", "steps": 12, "seed": 3}
    begun = http.post("/v1/images/generations", json=asked | {"background": True})
    assert begun.status_code == 202
    told = list(events(http, begun.json()["id"]))
    steps = [data["done"] for name, data in told if name == "progress"]
    assert steps == sorted(steps)
    assert 0 < max(steps) <= 12
    (name, job) = told[-1]
    assert (name, job["status"], job["progress"]) == ("succeeded", "succeeded", {"done": 12, "total": 12})
    waited = http.post("/v1/images/generations", json=asked).json()
    assert job["result"]["data"] == waited["data"]
    assert http.delete(f"/v1/jobs/{job['id']}").status_code == 200
    assert http.get(f"/v1/jobs/{job['id']}").status_code == 404


def replica_cpu_s() -> float:
    """Return the CPU time that the process of the models has used."""
    children = psutil.Process().children(recursive=True)
    (replica,) = (process for process in children if "ServeReplica:mmray:tiny" in " ".join(process.cmdline()))
    times = replica.cpu_times()
    return times.user + times.system


@pytest.fixture(scope="module")
def step_cpu_s(http: httpx2.Client) -> float:
    """Return what a step of four pictures costs the replica; the model is loaded after."""
    asked = {"prompt": "a cat", "size": "128x128", "n": 4, "steps": 20}
    http.post("/v1/images/generations", json=asked)
    before_s = replica_cpu_s()
    http.post("/v1/images/generations", json=asked)
    return (replica_cpu_s() - before_s) / 20


def assert_idle(http: httpx2.Client, step_cpu_s: float) -> None:
    """Assert that the model is not at work on four pictures of 400 steps.

    A small request waits for the pass under way: were that still wanted, the replica would first spend the CPU time of
    the steps left, nearly 400. A quarter of that leaves room for the step that ends and for the small request.
    """
    before_s = replica_cpu_s()
    assert http.post("/v1/images/generations", json={"prompt": "b", "size": "64x64", "steps": 1}).status_code == 200
    assert replica_cpu_s() - before_s < 100 * step_cpu_s, "the model was still at work on what nobody wants"


def test_a_cancelled_job_stops_its_work(http: httpx2.Client, step_cpu_s: float) -> None:
    asked = {"prompt": "a cat", "size": "128x128", "n": 4, "steps": 400, "background": True}
    job = http.post("/v1/images/generations", json=asked).json()["id"]
    told = events(http, job)
    assert next(data["done"] for name, data in told if data.get("done"))
    assert http.delete(f"/v1/jobs/{job}").json()["status"] == "cancelled"
    assert [name for name, _ in told][-1] == "cancelled"
    assert_idle(http, step_cpu_s)


def test_a_client_that_goes_away_stops_its_work(url: str, http: httpx2.Client, step_cpu_s: float) -> None:
    asked = {"prompt": "a cat", "size": "128x128", "n": 4, "steps": 400}
    with pytest.raises(httpx2.ReadTimeout):
        headers = {"Authorization": f"Bearer {KEY}"}
        httpx2.post(f"{url}/v1/images/generations", json=asked, headers=headers, timeout=httpx2.Timeout(30, read=1))
    assert_idle(http, step_cpu_s)


def test_work_whose_time_is_up_stops(url: str, http: httpx2.Client, step_cpu_s: float) -> None:
    from mmray.generation.image import ImageRequest
    from mmray.pipelines.serving.counts import Asking
    from mmray.pipelines.serving.models import Models

    handle = serve.get_deployment_handle("tiny", "mmray")
    models = Models({"sd": {"kind": "image", "pool": "tiny"}}, {"sd": handle}, Asking(CollectorRegistry(), "test"))

    async def ask() -> None:
        asked = [ImageRequest(prompt="a cat", width_px=128, height_px=128, steps=400) for _ in range(4)]
        async with asyncio.timeout(1):
            await models.made("sd", asked)

    with pytest.raises(TimeoutError):
        asyncio.run(ask())
    assert_idle(http, step_cpu_s)


def test_requests_that_meet_share_a_pass_and_give_what_they_give_alone(http: httpx2.Client) -> None:
    def one(seed: int) -> Any:
        return http.post("/v1/images/generations", json={"prompt": "a cat", "size": "64x64", "seed": seed}).json()

    alone = {seed: pixels(one(seed)["data"][0]["b64_json"]) for seed in range(3)}
    together: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda s=seed: together.update({s: one(s)})) for seed in alone]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, picture in alone.items():
        assert np.abs(pixels(together[seed]["data"][0]["b64_json"]).astype(int) - picture).max() <= 1


def test_the_openapi_names_every_route_and_a_method_that_is_not_there_is_told_which_are(http: httpx2.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    routes = {route for model in http.get("/v1/models").json()["data"] for route in model["routes"]}
    assert routes <= set(paths)
    for path, methods in paths.items():
        answer = http.request("PATCH", path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {method.upper() for method in methods}


@pytest.mark.slow
@pytest.mark.parametrize("fits", [True, False])
def test_every_route_answers_as_the_openapi_says(url: str, fits: bool) -> None:
    """What fits the schema may be refused: uploads are random bytes, and the limits stand elsewhere.

    What does not may be taken in a form, where any value becomes text.
    """
    import hypothesis
    import schemathesis
    from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

    mode = schemathesis.GenerationMode.POSITIVE if fits else schemathesis.GenerationMode.NEGATIVE
    some = hypothesis.settings(
        max_examples=5, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    api, asked = schemathesis.openapi.from_url(f"{url}/openapi.json"), []
    for operation in (found.ok() for found in api.get_all_operations()):
        if fits and operation.path == "/v1/spectrograms/generations":
            continue  # a hundred steps where none are asked for

        @hypothesis.seed(0)
        @some
        @hypothesis.given(case=operation.as_strategy(mode))
        def answers(case: schemathesis.Case) -> None:
            asked.append(case.operation.label)
            headers = {"Authorization": f"Bearer {KEY}"}
            form = [negative_data_rejection] if case.media_type == "multipart/form-data" else []
            case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance, *form], timeout=60)

        with suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong with some
            answers()
    assert len(set(asked)) > 10


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"port": 10_500}, "Ray's workers"),
        ({"models": [], "pools": {}}, "nothing to serve"),
        ({"trained": ["x"]}, "give the store"),
        ({"prot": 1}, "did you mean 'port'"),
        ({"pools": {}}, "there is no pool 'tiny'"),
        ({"limits": {"upload_bytes": 1}}, "limits.upload_bytes"),
    ],
)
def test_a_wrong_configuration_is_refused(tiny: Path, tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    file = tmp_path / "serve.yaml"
    good = config(tiny).model_dump(mode="json", by_alias=True, exclude_unset=True)
    file.write_text(json.dumps(good | keys))
    with pytest.raises(ConfigError, match=words):
        load_serve(str(file))


def test_models_that_are_not_there_or_not_free_are_refused(tiny: Path) -> None:
    from mmray.pipelines.serving.served import prepare

    def of(**entry: Any) -> ServeConfig:
        return ServeConfig.model_validate({"models": [entry]})

    with pytest.raises(ConfigError, match=r"models\[0\].model: .*nowhere"):
        prepare(of(name="image", model="./nowhere"), "serve.yaml")
    with pytest.raises(ConfigError, match=r"models\[0\].stepps?"):
        prepare(of(name="image", model=str(tiny / "stable_diffusion"), stepp=3), "serve.yaml")
    with pytest.raises(ConfigError, match="cannot be served"):
        prepare(of(name="imag", model="x"), "serve.yaml")


def test_keys_come_from_outside_and_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ServeConfig.model_validate({"store": "x", "keys_env": "MMRAY_TEST_KEYS"})
    with pytest.raises(ConfigError, match="holds no key"):
        key_digests(asked)
    monkeypatch.setenv("MMRAY_TEST_KEYS", "short")
    with pytest.raises(ConfigError, match="less than 16"):
        key_digests(asked)
    monkeypatch.setenv("MMRAY_TEST_KEYS", KEY)
    assert KEY.encode() not in b"".join(key_digests(asked))


def test_the_configurations_that_mmray_ships_can_be_served(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmray.pipelines.serving.served import prepare

    real = load_serve(str(ROOT / "configs" / "serve.yaml"))
    assert real.host == "127.0.0.1"
    (tmp_path / "tiny").symlink_to(tiny)
    monkeypatch.chdir(tmp_path)
    served = prepare(load_serve(str(ROOT / "configs" / "serve-tiny.yaml")), "serve-tiny.yaml")
    kinds = {entry.name for entry in real.models} | {"embedding", "transcription"}
    assert {one.kind for one in served} == kinds - {"sbert", "whisper"}
