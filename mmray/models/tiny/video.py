"""Tiny checkpoints of the networks for video, and of ViT-MAE, as the hub has them."""

from pathlib import Path
from typing import Any

import numpy as np

from mmray.models.tiny.parts import SIZE, write_json
from mmray.models.torch_setup import ensure_torchaudio, quiet

SIDE_PX = 32
FRAMES = 8
DECODER: dict[str, Any] = {
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def make_vivit(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as google/vivit-b-16x2-kinetics400: a classifier that sees 8 frames of 32 px cut out of 40."""
    del random
    ensure_torchaudio()
    from torch.nn.init import normal_
    from transformers import VivitConfig, VivitForVideoClassification

    model = VivitForVideoClassification(
        VivitConfig(image_size=SIDE_PX, num_frames=FRAMES, tubelet_size=[2, 8, 8], **SIZE)
    )
    for zeros in (model.vivit.embeddings.cls_token, model.vivit.embeddings.position_embeddings):
        normal_(zeros, std=0.5)  # else the order of its frames would mean nothing
    about = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5, "offset": True}
    _write(target, model, "VivitImageProcessor", 40, about)


def make_videomae(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as MCG-NJU/videomae-base: encoder and decoder of the pre-training, 8 frames of 32 px."""
    del random
    ensure_torchaudio()
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(
        image_size=SIDE_PX, patch_size=8, num_frames=FRAMES, use_mean_pooling=False, **SIZE, **DECODER
    )  # fmt: skip
    _write(target, VideoMAEForPreTraining(config), "VideoMAEImageProcessor", SIDE_PX, IMAGENET)


def make_vitmae(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as facebook/vit-mae-base: encoder and decoder of the pre-training, pictures of 32 px."""
    del random
    ensure_torchaudio()
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model = ViTMAEForPreTraining(ViTMAEConfig(image_size=SIDE_PX, patch_size=8, **SIZE, **DECODER))
    with quiet():
        model.save_pretrained(target)
    # As folders of that age have it: one number, and the processor under its old name.
    about = {"feature_extractor_type": "ViTFeatureExtractor", "size": SIDE_PX, "resample": 2, **IMAGENET}
    write_json(target / "preprocessor_config.json", {"do_normalize": True, "do_resize": True, **about})


def _write(target: Path, model: Any, kind: str, side_px: int, about: dict[str, Any]) -> None:
    """Write the model and a processor that scales the shorter side to ``side_px`` and cuts the centre out."""
    with quiet():
        model.save_pretrained(target)
    settings = {
        "image_processor_type": kind,
        "size": {"shortest_edge": side_px},
        "crop_size": {"height": SIDE_PX, "width": SIDE_PX},
        "resample": 2,
    }
    write_json(target / "preprocessor_config.json", settings | about)
