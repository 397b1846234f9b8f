"""What is asked of faster-whisper, and what is refused before it transcribes; the library is a stand-in here."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from mmray.errors import ConfigError
from mmray.models.faster import FILES, FasterTranscriber


@pytest.fixture
def given(monkeypatch):
    """Stand in for the library, with many languages; returns what its model is built with."""
    settings = {}

    def build(path, **more):
        settings.update(more, path=path)
        return SimpleNamespace(
            supported_languages=["en", "de", *(f"x{number}" for number in range(100))],
            model=SimpleNamespace(is_multilingual=more["device"] != "cuda"),
            hf_tokenizer=SimpleNamespace(token_to_id=lambda token: 7),
        )

    library = ModuleType("faster_whisper")
    library.__spec__ = ModuleSpec("faster_whisper", None)
    library.WhisperModel = build
    monkeypatch.setitem(sys.modules, "faster_whisper", library)
    return settings


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).touch()
    return str(tmp_path)


def test_it_takes_as_many_threads_as_it_is_given(given, folder, monkeypatch):
    for threads in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        FasterTranscriber(folder, "float32", "cpu", "de", True)
        assert given["cpu_threads"] == int(threads)
    FasterTranscriber(folder, "float16", "cuda:2", None, False)
    assert (given["device"], given["device_index"], given["compute_type"]) == ("cuda", 2, "float16")


def test_a_language_it_does_not_know_is_refused_without_a_list_of_all(given, folder):
    with pytest.raises(ConfigError, match="has no language 'dee'; did you mean 'de'") as refused:
        FasterTranscriber(folder, "float32", "cpu", "dee", False)
    assert "x99" not in str(refused.value)


def test_translating_with_a_model_for_english_is_refused(given, folder):
    with pytest.raises(ConfigError, match="understands English only: leave translate out"):
        FasterTranscriber(folder, "float32", "cuda", None, True)
