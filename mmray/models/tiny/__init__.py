"""Small random checkpoints in the real on-disk formats, which go through the real loading code.

For tests, dry runs and machines without a network. Beside each lies ``random.json``, by which a run knows and says that
its numbers mean nothing. The same seed and versions give the same bytes.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmray.config import nearest
from mmray.errors import ConfigError
from mmray.models import digest
from mmray.models.tiny import (
    audioldm,
    auffusion,
    captions,
    clap,
    dalle_mini,
    detectors,
    diffusion,
    pictures,
    sounds,
    speech,
    texts,
    transnetv2,
    vggish,
    video,
    yolov7,
)

# One folder each. A maker gets the folder, and numpy's random numbers; torch's are seeded.
MAKERS: dict[str, Callable[[Path, np.random.RandomState], None]] = {
    "audioldm": audioldm.make_audioldm,
    "audioldm2": audioldm.make_audioldm2,
    "auffusion": auffusion.make_auffusion,
    "blip": captions.make_blip,
    "clap": clap.make_clap,
    "clap_fused": clap.make_clap_fused,
    "clip": pictures.make_clip,
    "dalle_mini": dalle_mini.make_dalle_mini,
    "dfine": detectors.make_dfine,
    "distilbert": texts.make_distilbert,
    "rtdetr": detectors.make_rtdetr,
    "sbert": texts.make_sbert,
    "silero_vad": speech.make_gate,
    "stable_diffusion": diffusion.make_stable_diffusion,
    "stable_diffusion_xl": diffusion.make_stable_diffusion_xl,
    "summary": texts.make_summary,
    "transnetv2": transnetv2.make_transnetv2,
    "vggish": vggish.make_vggish,
    "vggish_pca": vggish.make_vggish_pca,
    "videomae": video.make_videomae,
    "vitmae": video.make_vitmae,
    "vivit": video.make_vivit,
    "whisper": speech.make_whisper,
    "yamnet": sounds.make_yamnet,
    "yolov7": yolov7.make_yolov7,
    "yolox": pictures.make_yolox,
    "zero_shot": texts.make_zero_shot,
}


def make_tiny(folder: Path, seed: int = 0, names: list[str] | None = None) -> list[Path]:
    """Write random checkpoints (default: all of ``MAKERS``) below ``folder`` and return their folders."""
    wanted = list(MAKERS) if names is None else names
    for name in wanted:
        if name not in MAKERS:
            raise ConfigError(f"there is no tiny checkpoint {name!r}{nearest(name, MAKERS)}")
    targets = [Path(folder) / name for name in wanted]
    for name, target in zip(wanted, targets, strict=True):
        target.mkdir(parents=True, exist_ok=True)
        (target / digest.MARKER).write_text(json.dumps({"seed": seed}))
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as if nothing had happened
            torch.manual_seed(seed)
            MAKERS[name](target, np.random.RandomState(seed))
    return targets
