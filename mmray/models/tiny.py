"""Small random checkpoints in the real on-disk formats, which go through the real loading code.

For tests, dry runs and machines without a network. Beside each lies ``random.json``, by which a run knows and says that
its numbers mean nothing. The same seed and versions give the same bytes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch

from mmray.config import nearest
from mmray.errors import ConfigError
from mmray.models import digest, yamnet
from mmray.models.onnx_file import Node, model
from mmray.models.torch_setup import ensure_torchaudio, quiet

YOLOX_SIDE_PX = 160
TEXT_SIZE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip


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


def _yamnet(target: Path, random: np.random.RandomState) -> None:
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


def _sbert(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as sentence-transformers/all-MiniLM-L6-v2 has it on the hub."""
    del random
    ensure_torchaudio()
    from transformers import BertConfig, BertModel, BertTokenizer

    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{sign}" for sign in characters)]
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)}, model_max_length=48)
    tokenizer.save_pretrained(target)
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **TEXT_SIZE)
    with quiet():
        BertModel(config).save_pretrained(target)
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(parts)
    ]
    _write_json(target / "modules.json", modules)
    _write_json(target / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    pooling = {"word_embedding_dimension": TEXT_SIZE["hidden_size"], "pooling_mode_mean_tokens": True}
    _write_json(target / "1_Pooling" / "config.json", pooling)


def _clip(target: Path, random: np.random.RandomState) -> None:
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
    text = {**TEXT_SIZE, "vocab_size": len(words), "max_position_embeddings": 77}
    text |= {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end, "projection_dim": 24}
    vision = {**TEXT_SIZE, "image_size": 32, "patch_size": 8, "projection_dim": 24}
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
    _write_json(target / "preprocessor_config.json", preprocessor)


def _yolox(target: Path, random: np.random.RandomState) -> None:
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


def _write_json(file: Path, data: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(data, indent=2))


MAKERS: dict[str, Callable[[Path, np.random.RandomState], None]] = {
    "yamnet": _yamnet,
    "sbert": _sbert,
    "clip": _clip,
    "yolox": _yolox,
}
