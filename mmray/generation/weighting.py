"""When which of two models paints a shared canvas.

Source: Chen, Geng, Owens 2024, Images that Sound. A modality has the weight w(t) = H(t_m T - t), and here an end too;
the weights of a step are normalised. Times are fractions of the diffusion, 1 (noise) to 0 (picture). The authors' code
counts steps instead: their start at step k of n is the time 1 - k / n. Parity: tests/generation/test_joint.py.
"""

import numpy as np
import numpy.typing as npt

# (from, until): a modality works at the times t with until < t <= from; until 0 is the very end.
Span = tuple[float, float]
CLOSE = 1e-6  # times that are one: 0.7 * 1000 need not be 700


def times(steps: int) -> npt.NDArray[np.float64]:
    """Return the times of ``steps`` steps as Stable Diffusion's published schedule spaces them (of 1000)."""
    return ((1000 // steps) * np.arange(steps)[::-1] + 1) / 1000


def weights(at: npt.ArrayLike, picture: Span, sound: Span, sound_weight: float = 0.5) -> npt.NDArray[np.float32]:
    """Return what each modality weighs at some times: (times, 2), the picture first; every row adds up to 1.

    Where both work the sound has ``sound_weight``, where one works it has all. ValueError where neither does.
    """
    moments = np.asarray(at, np.float64)
    active = np.stack([_active(moments, span) for span in (picture, sound)], axis=1)
    idle = moments[~active.any(axis=1)]
    if idle.size:
        raise ValueError(f"neither picture nor sound works at the time {idle[0]:.3f}")
    shares = np.array([1 - sound_weight, sound_weight])
    return np.where(active.all(axis=1, keepdims=True), shares, active).astype(np.float32)


def _active(moments: npt.NDArray[np.float64], span: Span) -> npt.NDArray[np.bool_]:
    begin, end = span
    begun, over = moments <= begin + CLOSE, moments <= end + CLOSE
    return (begin > end) & begun & ~(over & (end > 0))


def gap(picture: Span, sound: Span, start: float = 1.0) -> float | None:
    """Return the first time from ``start`` down to 0 at which neither modality works; None where there is none."""
    reached = start
    for begin, end in sorted([picture, sound], reverse=True):
        if begin > end and begin >= reached:
            reached = min(reached, end)
    return reached if reached > 0 else None
