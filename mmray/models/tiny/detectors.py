"""Tiny checkpoints of the detectors that transformers has: RT-DETR and D-FINE."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmray.models.labels import COCO
from mmray.models.tiny.parts import write_json
from mmray.models.torch_setup import ensure_torchaudio, quiet

SIDE_PX = 96
WIDTHS = [16, 16, 32]  # of the maps at strides 8, 16, 32
SCORE = -2.5  # the bias of every class: few boxes are sure of anything
BACKBONE: dict[str, Any] = {
    "embedding_size": 8, "hidden_sizes": [8, *WIDTHS], "depths": [1, 1, 1, 1], "out_indices": [2, 3, 4],
}  # fmt: skip
TOGETHER: dict[str, Any] = {
    "encoder_hidden_dim": 32, "encoder_in_channels": WIDTHS, "encoder_ffn_dim": 32, "encoder_attention_heads": 2,
    "d_model": 32, "decoder_in_channels": [32, 32, 32], "decoder_ffn_dim": 32, "decoder_attention_heads": 2,
    "decoder_layers": 2, "num_queries": 20, "num_denoising": 0, "hidden_expansion": 0.5,
    "id2label": dict(enumerate(COCO)), "label2id": {name: number for number, name in enumerate(COCO)},
}  # fmt: skip


def make_rtdetr(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as PekingU/rtdetr_r50vd has it on the hub."""
    del random
    ensure_torchaudio()
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(layer_type="basic", **BACKBONE)
    _write(RTDetrForObjectDetection(RTDetrConfig(backbone_config=backbone, **TOGETHER)), target)


def make_dfine(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as ustc-community/dfine-small-coco has it on the hub."""
    del random
    ensure_torchaudio()
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 16, 16],
        stage_mid_channels=[4, 4, 8, 8],
        stage_out_channels=BACKBONE["hidden_sizes"],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        **BACKBONE,
    )
    config = DFineConfig(backbone_config=backbone, depth_mult=0.34, lqe_hidden_dim=16, **TOGETHER)
    _write(DFineForObjectDetection(config), target)


def _write(model: Any, target: Path) -> None:
    # The library's own start (0.01) lets a picture vanish on the way to the scores.
    for name, parameter in model.named_parameters():
        scores = "class_embed" in name or "score_head" in name
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        elif scores:
            parameter.data.fill_(SCORE)
    with quiet():
        model.save_pretrained(target)
    preprocessor = {
        "image_processor_type": "RTDetrImageProcessor",
        "size": {"height": SIDE_PX, "width": SIDE_PX},
        "do_resize": True,
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        "do_pad": False,
    }
    write_json(target / "preprocessor_config.json", preprocessor)
