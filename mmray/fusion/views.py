"""Examples to look at: what networks read of a sample, as it is and at the noisiest level of the evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmray.fusion.encoder import Encoder
from mmray.fusion.examples import Examples, batch
from mmray.fusion.material import Material
from mmray.fusion.networks import Fusion
from mmray.fusion.noise import Noise
from mmray.fusion.sound_cnn import Rooms, SoundEncoder, flat, joined
from mmray.fusion.training import TrainConfig
from mmray.tables.store import Store

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """One input of one sample; ``level``: of its noise, None as it is.

    ``wave`` (samples,) at ``rate_hz``; ``spectrogram`` (bands, frames), a frame every ``step_s``; ``picture``
    (height, width, channels) from 0 to 1. What an input has none of is None.
    """

    input: str
    sample_id: str
    label: str
    noise: str | None
    level: float | None
    wave: Matrix | None = None
    rate_hz: int = 0
    spectrogram: Matrix | None = None
    step_s: float = 0.0
    picture: Matrix | None = None


def noisiest(noise: Noise) -> float:
    """Return the level of a sweep that leaves least of the signal."""
    return min(noise.sweep) if noise.kind == "snr_db" else max(noise.sweep)


def views(
    networks: Sequence[Fusion], config: TrainConfig, material: Material, tested: Examples, store: Store
) -> list[View]:
    """Return views of the first example that has all inputs, or else of the first that has an input.

    Inputs that are no sound and no picture have none; an input is seen through the first network that reads it.
    """
    found: list[View] = []
    whole = np.flatnonzero((tested.places >= 0).all(axis=1))
    for column, one in enumerate(config.inputs):
        encoder = next((network.encoders[one.as_] for network in networks if one.as_ in network.names), None)
        having = np.flatnonzero(tested.places[:, column] >= 0)
        if encoder is None or not len(having):
            continue
        place = tested.places[whole[0] if len(whole) else having[0], column]
        read = batch(
            Examples(np.array([[place]]), np.zeros(1, np.int64)), (one.as_,), material.modalities, np.arange(1)
        )
        windows, there = read.windows[one.as_], read.there[one.as_]
        shown: list[tuple[float | None, Tensor]] = [(None, windows)]
        if one.noise:
            level, generator = noisiest(one.noise), torch.Generator().manual_seed(config.seed)
            shown.append((level, encoder.disturbed(windows, there, one.noise.kind, torch.tensor([level]), generator)))
        about = store.read_json("provenance", f"{material.modalities[one.as_].extractor}.json") or {}
        for at, seen in shown:
            parts = _parts(encoder, seen, there, about.get("config") or {})
            if parts:
                named = material.dataset.ids[place], material.labels.values[place] or ""
                found.append(View(one.as_, *named, one.noise.kind if one.noise else None, at, **parts))
    return found


@torch.inference_mode()
def _parts(encoder: Encoder, windows: Tensor, there: Tensor, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can be seen of one sample's windows (1, windows, dim); ``settings``: of their extractor."""
    if encoder.picture:
        picture = windows[0, int(there[0].nonzero()[0])].reshape(encoder.picture).numpy()
        return {"picture": picture}
    if isinstance(encoder, SoundEncoder):
        waves, lengths = joined(windows, there)
        about, rooms = encoder.settings, Rooms.of(lengths, encoder.settings)
        seen = encoder.decibels(waves, rooms)[flat(rooms.real, rooms)].T
        return {
            "wave": waves[0, : lengths[0]].numpy(), "rate_hz": about.rate_hz, "spectrogram": seen.numpy(),
            "step_s": about.step / about.rate_hz,
        }  # fmt: skip
    bands = settings.get("n_mels")
    if isinstance(bands, int) and windows.shape[2] % bands == 0:  # of the extractor `logmel`
        frames = windows[0, there[0]].reshape(-1, bands)
        return {"spectrogram": frames.T.numpy(), "step_s": settings["step_s"]}
    return {}
