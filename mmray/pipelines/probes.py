"""Import libraries and tell what they can do: run by `mmray doctor` in processes of their own, which they may break.

``python -m mmray.pipelines.probes NAME...`` prints a line of JSON for each, until one fails.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

CODECS = (
    "h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg",
    "aac", "mp3", "opus", "vorbis", "flac", "ac3", "pcm_s16le",
)  # fmt: skip


def _torch() -> dict[str, Any]:
    import torch

    found = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    devices = [{"name": one.name, "memory_bytes": one.total_memory} for one in found]
    return {"version": torch.__version__, "devices": devices}


def _torchaudio() -> dict[str, Any]:
    from mmray.models.torch_setup import ensure_torchaudio

    ensure_torchaudio()
    import torchaudio

    native = getattr(sys.modules["torchaudio._extension"], "__file__", None) is not None
    return {"version": torchaudio.__version__, "native": native}


def _torchvision() -> dict[str, Any]:
    import torchvision  # type: ignore[import-not-found,unused-ignore]

    return {"version": torchvision.__version__}


def _transformers() -> dict[str, Any]:
    from mmray.models.torch_setup import ensure_torchaudio

    ensure_torchaudio()
    import transformers
    from transformers import CLIPModel  # what a broken neighbour breaks

    return {"version": transformers.__version__, "works": CLIPModel.__name__}


def _av() -> dict[str, Any]:
    import av
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    missing = []
    for name in CODECS:
        try:
            Codec(name, "r")
        except UnknownCodecError:
            missing.append(name)
    return {"version": av.__version__, "ffmpeg": av.ffmpeg_version_info, "missing": missing}


def _onnxruntime() -> dict[str, Any]:
    import onnxruntime

    return {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


def _ray() -> dict[str, Any]:
    import ray

    return {"version": ray.__version__}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch,
    "torchaudio": _torchaudio,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "av": _av,
    "onnxruntime": _onnxruntime,
    "ray": _ray,
}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps({name: PROBES[name]()}), flush=True)
