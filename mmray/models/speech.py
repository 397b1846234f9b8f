"""Where in a sound somebody speaks: a gate for models that hear words in rain and music.

Source: Silero Team 2024, Silero VAD 5. Weights: silero_vad_16k_op15.onnx of snakers4/silero-vad, MIT.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError
from mmray.models import onnx_session

RATE_HZ = 16_000
STEP, CONTEXT = 512, 64  # samples: a verdict every 32 ms, on these and the few before
BATCH = 16  # sounds at once: from there on a sound costs the same
# Silero's own settings: speech begins at .5 and ends below .35; a gap under 0.1 s is none; a run under 0.25 s is none.
BEGIN, END = 0.5, 0.35
SHORTEST_GAP, SHORTEST_RUN = 1_600, 4_000

Samples = npt.NDArray[np.float32]
Span = tuple[int, int]


class SpeechGate:
    """Tells the spans of speech of sounds at 16 kHz. Each sound is heard from a fresh state."""

    def __init__(self, path: str) -> None:
        self._session = _session(path)

    def __call__(self, sounds: Sequence[Samples]) -> list[list[Span]]:
        """Return for each sound the spans (first sample, sample behind the last) of at least 0.25 s of speech."""
        batches = [sounds[start : start + BATCH] for start in range(0, len(sounds), BATCH)]
        chances = [row for batch in batches for row in self.chances(batch)]
        return [list(spans(row, sound.size)) for row, sound in zip(chances, sounds, strict=True)]

    def chances(self, sounds: Sequence[Samples]) -> list[npt.NDArray[np.float32]]:
        """Return for each sound how sure the network is of speech, every 32 ms: float32 (steps,) in [0, 1]."""
        steps = [-(-sound.size // STEP) for sound in sounds]
        padded = np.zeros((len(sounds), CONTEXT + max(steps) * STEP), np.float32)
        for row, sound in zip(padded, sounds, strict=True):
            row[CONTEXT : CONTEXT + sound.size] = sound
        state, rate_hz = np.zeros((2, len(sounds), 128), np.float32), np.array(RATE_HZ, np.int64)
        found = np.zeros((len(sounds), max(steps)), np.float32)
        for step in range(max(steps)):
            heard = np.ascontiguousarray(padded[:, step * STEP : (step + 1) * STEP + CONTEXT])
            chance, state = self._session.run(None, {"input": heard, "state": state, "sr": rate_hz})
            found[:, step] = chance[:, 0]
        return [row[:count] for row, count in zip(found, steps, strict=True)]


def spans(chances: npt.NDArray[np.float32], size: int) -> Iterator[Span]:
    """Turn the verdicts on a sound of ``size`` samples into spans of speech that are long enough."""
    runs: list[list[int]] = []
    speaking = False
    for step, chance in enumerate(chances):
        if chance >= (END if speaking else BEGIN):
            start, end = step * STEP, min((step + 1) * STEP, size)
            if speaking or (runs and start - runs[-1][1] < SHORTEST_GAP):
                runs[-1][1] = end
            else:
                runs.append([start, end])
            speaking = True
        else:
            speaking = False
    yield from ((start, end) for start, end in runs if end - start >= SHORTEST_RUN)


def _session(path: str) -> Any:
    # On the CPU always: a thousand small steps in turn, which a GPU would wait for.
    session = onnx_session.session(path, "cpu")
    inputs = {one.name: (one.type, len(one.shape)) for one in session.get_inputs()}
    wanted = {"input": ("tensor(float)", 2), "state": ("tensor(float)", 3), "sr": ("tensor(int64)", 0)}
    if inputs != wanted or len(session.get_outputs()) != 2:
        raise ConfigError(f"{path}: takes {sorted(inputs)}; Silero VAD (version 5) takes {sorted(wanted)}")
    return session
