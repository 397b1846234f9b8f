"""Tiny checkpoints of the networks for pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmray.models.onnx_file import Node, model
from mmray.models.tiny.parts import SIZE, write_json
from mmray.models.torch_setup import ensure_torchaudio, quiet

YOLOX_SIDE_PX = 160


def make_clip(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as openai/clip-vit-base-patch32 has it on the hub."""
    del random
    ensure_torchaudio()
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    start, end = len(words) - 2, len(words) - 1
    vocabulary = {word: place for place, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(target)
    text = {**SIZE, "vocab_size": len(words), "max_position_embeddings": 77}
    text |= {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end, "projection_dim": 24}
    vision = {**SIZE, "image_size": 32, "patch_size": 8, "projection_dim": 24}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    with quiet():
        CLIPModel(config).save_pretrained(target)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    write_json(target / "preprocessor_config.json", preprocessor)


def make_yolox(target: Path, random: np.random.RandomState) -> None:
    """Write a network with the inputs and outputs of YOLOX's export: one stem, three strides, one 1 x 1 head each."""
    stem = random.standard_normal((16, 3, 8, 8))
    stem -= stem.mean((1, 2, 3), keepdims=True)  # sees contrast, not brightness: a flat picture shows nothing
    constants: dict[str, npt.NDArray[Any]] = {
        "stem_w": (stem / 400).astype(np.float32),
        "stem_b": np.zeros(16, np.float32),
        "flat": np.array([1, 85, -1], np.int64),
        "parts": np.array([4, 81], np.int64),
    }
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        Node("Conv", ["images", "stem_w", "stem_b"], ["stem"], {"kernel_shape": [8, 8], "strides": [8, 8]}),
        Node("Relu", ["stem"], ["map8"]),
        Node("MaxPool", ["map8"], ["map16"], pool),
        Node("MaxPool", ["map16"], ["map32"], pool),
    ]
    # Boxes of about three strides, few of them sure of anything.
    bias = np.concatenate([[0, 0], np.log([3, 3]), [-4], np.full(80, -1.5)]).astype(np.float32)
    for stride in (8, 16, 32):
        constants[f"head{stride}_w"] = (random.standard_normal((85, 16, 1, 1)) * 0.5).astype(np.float32)
        constants[f"head{stride}_b"] = bias
        inputs = [f"map{stride}", f"head{stride}_w", f"head{stride}_b"]
        nodes += [
            Node("Conv", inputs, [f"raw{stride}"], {"kernel_shape": [1, 1]}),
            Node("Reshape", [f"raw{stride}", "flat"], [f"rows{stride}"]),
        ]
    nodes += [
        Node("Concat", ["rows8", "rows16", "rows32"], ["columns"], {"axis": 2}),
        Node("Transpose", ["columns"], ["rows"], {"perm": [0, 2, 1]}),
        Node("Split", ["rows", "parts"], ["boxes", "logits"], {"axis": 2}),
        Node("Sigmoid", ["logits"], ["scores"]),
        Node("Concat", ["boxes", "scores"], ["output"], {"axis": 2}),
    ]
    rows = sum((YOLOX_SIDE_PX // stride) ** 2 for stride in (8, 16, 32))
    side = YOLOX_SIDE_PX
    data = model(nodes, constants, {"images": [1, 3, side, side]}, {"output": [1, rows, 85]})
    (target / "yolox.onnx").write_bytes(data)
