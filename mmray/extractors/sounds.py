"""What the extractors of sound share: the times of a wave's windows."""

from typing import Any

from mmray.specs import Rows, Wave


def window_rows(wave: Wave, hop_s: float, length_s: float, columns: dict[str, Any]) -> Rows:
    """Return one row per window of a wave, on the sample's own grid; the last window ends where the sound does."""
    sound_end_s = wave.window * hop_s + wave.samples.size / wave.rate_hz
    windows = list(range(wave.window, wave.window + wave.count))
    starts = [window * hop_s for window in windows]
    return Rows(windows, starts, [min(start + length_s, sound_end_s) for start in starts], columns)
