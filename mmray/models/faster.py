"""Speech to text with Whisper on CTranslate2, through faster-whisper: the same segments, two to four times as fast.

Source: SYSTRAN/faster-whisper and OpenNMT/CTranslate2 (both MIT). Weights: Systran/faster-whisper-* (MIT), or any
Whisper folder after `ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json`.
"""

import importlib
import importlib.util
import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from mmray.config import nearest
from mmray.errors import ConfigError
from mmray.models.transcript import Said

RATE_HZ = 16_000
FILES = ("model.bin", "config.json", "tokenizer.json")


def check(path: str) -> None:
    """Raise ConfigError where faster-whisper is not installed, or the folder is none of CTranslate2's."""
    if importlib.util.find_spec("faster_whisper") is None:
        raise ConfigError("backend faster_whisper is not installed: pip install 'mmray[faster-whisper]'")
    for file in FILES:
        if not (Path(path) / file).is_file():
            raise ConfigError(f"{path}/{file}: is missing; backend faster_whisper reads a Whisper of CTranslate2")


class FasterTranscriber:
    """A CTranslate2 folder, loaded; the same settings and answers as ``transcribe.Transcriber``."""

    def __init__(self, path: str, precision: str, device: str, language: str | None, translate: bool) -> None:
        check(path)
        faster = importlib.import_module("faster_whisper")
        kind, _, number = device.partition(":")
        try:
            self._net = faster.WhisperModel(
                path,
                device=kind,
                device_index=int(number or 0),
                compute_type=precision,
                cpu_threads=int(os.environ.get("OMP_NUM_THREADS", "1")),
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ConfigError(f"{path}: faster_whisper cannot load it on {device} in {precision}: {error}") from error
        known = self._net.supported_languages
        if language is not None and language not in known:
            raise ConfigError(f"{path}: has no language {language!r}{nearest(language, known)}")
        if translate and not self._net.model.is_multilingual:
            raise ConfigError(f"{path}: understands English only: leave translate out")
        self._language, self._task = language, "translate" if translate else "transcribe"
        self._first_stamp = self._net.hf_tokenizer.token_to_id("<|notimestamps|>") + 1

    def speaking(self, language: str) -> Self:
        """Return it for another language, with the same network; ConfigError for one that it does not know."""
        known = self._net.supported_languages
        if language not in known:
            raise ConfigError(f"there is no language {language!r} here{nearest(language, known)}")
        other = copy(self)
        other._language = language
        return other

    def __call__(self, sounds: Sequence[npt.NDArray[np.float32]]) -> list[list[Said]]:
        """Transcribe sounds at 16 kHz of up to 30 s, one after the other; for each its segments in order of time."""
        return [self._one(sound) for sound in sounds]

    def _one(self, sound: npt.NDArray[np.float32]) -> list[Said]:
        told, about = self._net.transcribe(
            sound,
            language=self._language,
            task=self._task,
            beam_size=1,
            best_of=1,
            temperature=0.0,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
            condition_on_previous_text=False,
            vad_filter=False,
        )
        length_s = sound.size / RATE_HZ
        found = []
        for one in told:
            # Without a timestamp at its end a segment goes on to the end of the sound; the library makes it end early.
            end_s = min(one.end, length_s) if one.tokens[-1] >= self._first_stamp else length_s
            if one.text.strip() and one.start < end_s:
                found.append(Said(one.start, end_s, one.text.strip(), about.language, one.avg_logprob))
        return found
