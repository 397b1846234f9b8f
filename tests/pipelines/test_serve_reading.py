"""Extractors behind the endpoint: a medium and words at once, and an end where nobody waits any more."""

import threading
from pathlib import Path
from typing import Any

import pytest

from mmray.generation.base import Progress, RequestError
from mmray.pipelines import job
from mmray.pipelines.serving.reading import Medium, Reading, task_of, vectors
from mmray.pipelines.worker import loaded
from tests.near import assert_near


class GoneError(Exception):
    """Whoever asked has gone away."""


@pytest.fixture(scope="module")
def reading(tiny: Path) -> Reading:
    entries = [
        ("yamnet", {"weights": str(tiny / "yamnet" / "yamnet.h5")}),
        ("clip", {"model": str(tiny / "clip"), "uniform": 4}),
        ("sbert", {"model": str(tiny / "sbert"), "source": "text"}),
    ]
    tasks = [task_of(name, job.build(name, settings, "models[0]", "serve.yaml")) for name, settings in entries]
    return Reading(tasks, [loaded(task, "cpu") for task in tasks])


@pytest.fixture(scope="module")
def clip(clips: Path) -> bytes:
    return next((clips / "circle").rglob("*.mp4")).read_bytes()


def read(
    reading: Reading, medium: Medium, words: str | None = None, progress: Progress = lambda done, total: None
) -> Any:
    """Read in a thread: one that hangs must not hang the tests."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(reading(medium, progress, words))
        except (GoneError, RequestError) as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert found, "it hangs"
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def test_a_medium_and_words_are_read_together_as_each_alone(reading: Reading, clip: bytes) -> None:
    (heard, seen, said), duration_s = read(reading, Medium(clip, 60), "a circle moves")
    (alone, _, nothing), _ = read(reading, Medium(clip, 60))
    assert nothing is None
    assert duration_s > 1
    assert_near(vectors(heard), vectors(alone))
    assert len(vectors(said)) == 1
    assert len(vectors(seen)) == 4


def test_what_nobody_waits_for_ends_and_leaves_no_thread(reading: Reading, clip: bytes) -> None:
    def gone(done: int, total: int) -> None:
        raise GoneError

    for words in (None, "a circle moves"):
        with pytest.raises(GoneError):
            read(reading, Medium(clip, 60), words, gone)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_what_cannot_be_read_or_is_too_long_is_refused(reading: Reading, clip: bytes) -> None:
    with pytest.raises(RequestError, match=r"^file: "):
        read(reading, Medium(b"no medium", 60), "words do not make up for it")
    with pytest.raises(RequestError, match=r"file: lasts . s, and at most 0\.5 s are read"):
        read(reading, Medium(clip, 0.5))
