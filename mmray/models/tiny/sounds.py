"""Tiny checkpoints of the networks for sound."""

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from mmray.models import yamnet


def make_yamnet(target: Path, random: np.random.RandomState) -> None:
    """Write a file as Google's yamnet.h5 is."""
    with h5py.File(target / "yamnet.h5", "w") as file:
        layers = list(dict.fromkeys(name.rpartition("/")[0] for name in yamnet.shapes()))
        file.attrs["layer_names"] = layers
        file.attrs["backend"] = "tensorflow"
        for layer in layers:
            arrays = [name for name in yamnet.shapes() if name.rpartition("/")[0] == layer]
            file.require_group(layer).attrs["weight_names"] = [f"{name}:0" for name in arrays]
            for name in arrays:
                file[layer].create_dataset(f"{name}:0", data=_yamnet_array(name, yamnet.shapes()[name], random))


def _yamnet_array(name: str, shape: tuple[int, ...], random: np.random.RandomState) -> npt.NDArray[np.float32]:
    values = random.standard_normal(shape)
    if name.endswith("moving_variance"):
        values = np.exp(0.2 * values)
    elif name.endswith("kernel"):  # keeps the variance from layer to layer
        fan_in = 9 if name.endswith("depthwise_kernel") else np.prod(shape[:-1])
        values *= np.sqrt(2.0 / fan_in)
    else:
        values *= 0.1
    return values.astype(np.float32)
