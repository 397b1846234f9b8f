"""Extractors of a third party that need no weights, and that a test holds, paces and makes crash.

``control`` names a folder: a file ``hold`` in it stops every model where it stands, ``hold_load`` stops the loading,
the number in ``pace`` is the seconds each item takes, and with ``refuse`` a transcript of about every third sound
fails. It decides no number, so it is not part of the identity.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmray.extractors.base import ExtractFn, Extractor, Kind, Pooling
from mmray.specs import AudioSpec, Rows, Text, TextSpec, Wave

SOUND = AudioSpec(rate_hz=16_000, window_s=0.96, hop_s=0.96)
POLL_S = 0.02
KILLS, HANGS = 0.5, 0.25  # a sound that has only this value kills or stops the process that hears it


class Controlled(Extractor):
    """An extractor that waits where its control folder says so."""

    execution: ClassVar[frozenset[str]] = Extractor.execution | {"control"}
    cpu_items_per_s: ClassVar[float] = 1.0  # predicted as slow, so that a call of an actor has few segments

    control: str = ""
    batch_size: int = 1

    def wait(self, name: str) -> None:
        """Wait while there is such a file in the control folder."""
        while self.control and (Path(self.control) / name).exists():
            time.sleep(POLL_S)

    def pace(self) -> None:
        """Take the time that the control folder says."""
        self.wait("hold")
        path = Path(self.control) / "pace"
        if self.control and path.exists():
            time.sleep(float(path.read_text()))


class Gauge(Controlled):
    """Four numbers for every 0.96 s of sound: mean, deviation, largest, and the share of rising samples."""

    name: ClassVar[str] = "gauge"
    sound: AudioSpec = SOUND
    pooling: tuple[Pooling, ...] = ("mean", "max")

    def dims(self, path: str | None) -> dict[str, int]:
        return {"embedding": 4}

    def load(self, device: str, path: str | None) -> ExtractFn:
        self.wait("hold_load")

        def extract(waves: Sequence[Wave]) -> Iterator[Rows]:
            for wave in waves:
                self.pace()
                _obey(wave)
                yield Rows(*_times(wave), {"embedding": np.stack([_measured(part) for part in _windows(wave)])})

        return extract


class Heard(Controlled):
    """A word for every 0.96 s of sound: what a transcript looks like."""

    name: ClassVar[str] = "heard"
    kind: ClassVar[Kind] = Kind.TEXT
    poolings: ClassVar[tuple[Pooling, ...]] = ()
    sound: AudioSpec = SOUND
    pooling: tuple[Pooling, ...] = ()

    def refuses(self, wave: Wave) -> bool:
        return (
            bool(self.control) and (Path(self.control) / "refuse").exists() and int(wave.samples.std() * 1e4) % 3 == 0
        )

    def load(self, device: str, path: str | None) -> ExtractFn:
        self.wait("hold_load")

        def extract(waves: Sequence[Wave]) -> Iterator[Rows]:
            for wave in waves:
                self.pace()
                if self.refuses(wave):
                    raise RuntimeError("refused")
                words = [f"{part.std():.3f}" for part in _windows(wave)]
                columns = {"text": words, "language": ["en"] * wave.count, "avg_logprob": [0.0] * wave.count}
                yield Rows(*_times(wave), columns)

        return extract


class Letters(Controlled):
    """The number of characters and of digits of a text."""

    name: ClassVar[str] = "letters"
    text: TextSpec = TextSpec()
    source: str = "text"

    def dims(self, path: str | None) -> dict[str, int]:
        return {"embedding": 2}

    def load(self, device: str, path: str | None) -> ExtractFn:
        def extract(texts: Sequence[Text]) -> Iterator[Rows]:
            for text in texts:
                self.pace()
                counts = [[len(text.text), sum(letter.isdigit() for letter in text.text)]]
                yield Rows([0], [None], [None], {"embedding": np.array(counts, np.float32)})

        return extract


def _obey(wave: Wave) -> None:
    values = np.unique(np.round(wave.samples, 3))
    if values.tolist() == [KILLS]:
        os.kill(os.getpid(), signal.SIGKILL)
    if values.tolist() == [HANGS]:
        time.sleep(3600)


def _windows(wave: Wave) -> list[np.ndarray]:
    length = round(SOUND.window_s * wave.rate_hz)
    parts = [wave.samples[number * length : (number + 1) * length] for number in range(wave.count)]
    return [part if part.size else np.zeros(1, np.float32) for part in parts]


def _times(wave: Wave) -> tuple[list[int], list[float], list[float]]:
    numbers = list(range(wave.window, wave.window + wave.count))
    starts = [number * SOUND.hop_s for number in numbers]
    return numbers, starts, [start + SOUND.window_s for start in starts]


def _measured(samples: np.ndarray) -> np.ndarray:
    rising = np.mean(np.diff(samples) > 0) if samples.size > 1 else 0.0
    return np.array([samples.mean(), samples.std(), np.abs(samples).max(), rising], np.float32)
