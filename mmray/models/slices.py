"""Long sound in slices of at most one window, cut at pauses: neighbouring windows agree where, without meeting.

The windows of a sound overlap. In what two of them share, both look for the quietest place; they hold the same samples
there, so they find the same place, and each sample of the sound is in one slice, however the sound comes in waves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmray.specs import Wave

Samples = npt.NDArray[np.float32]

RATE_HZ = 16_000
FRAME = 320  # 20 ms: the grid that energies are summed on
SMOOTH = 5  # frames: 0.1 s
# What is at most four times (6 dB) as loud as the quietest 0.1 s is as quiet. Over every 5 s of a fluent reading
# (LibriVox) that finds stretches of 0.12 s and more, 0.26 s in the median, 13 to 40 dB under the speech; with 0.2 s for
# 0.1 s some lie inside words.
QUIET = 4
# Sums of squares of 16-bit samples over SMOOTH frames, as whole numbers: sums that no order of adding changes.
SILENCE = round(SMOOTH * FRAME * (32_767 * 10 ** (-60 / 20)) ** 2)  # -60 dB of full scale and below is all silence


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of window ``window`` that no other window has: ``start`` counts samples from the start of the sound."""

    window: int
    start: int
    samples: Samples


def slices(wave: Wave, window: int, hop: int) -> Iterator[Slice]:
    """Cut each window of a wave (``window`` samples every ``hop``, at 16 kHz) to what is its own.

    A window that its samples fill has a successor, and ends at the seam with it; one that they do not fill is the last,
    and goes on to the end of the sound (``Overlapping`` in mmray.extractors.whisper makes that so).
    """
    for place in range(wave.count):
        number = wave.window + place
        samples = wave.samples[place * hop : place * hop + window]
        start = seam(samples[: window - hop]) if number else 0
        end = hop + seam(samples[hop:]) if samples.size == window else samples.size
        yield Slice(number, number * hop + start, samples[start:end])


def seam(shared: Samples) -> int:
    """Return the quietest place in the samples that two windows share: the middle of the longest quiet stretch.

    Quiet: 0.1 s with no more than four times the energy of the quietest 0.1 s, or below -60 dB of full scale. Of
    equally long stretches the first. At least 0.1 s of samples is needed.
    """
    frames = shared.size // FRAME
    pcm = np.rint(shared[: frames * FRAME] * np.float32(32_767)).astype(np.int64)
    energy = np.square(pcm).reshape(frames, FRAME).sum(axis=1)
    total = np.concatenate([[0], np.cumsum(energy)])
    smooth = total[SMOOTH:] - total[:-SMOOTH]
    quiet = smooth <= max(QUIET * smooth.min(), SILENCE)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]])))
    starts, ends = edges[::2], edges[1::2]
    longest = np.argmax(ends - starts)
    return int((starts[longest] + ends[longest] - 1 + SMOOTH) * FRAME // 2)
