"""A tiny DALL·E mini, in the folder that min-dalle reads."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmray.models.tiny.parts import write_json

Shapes = dict[str, tuple[int, ...]]

WIDTH, MIDDLE, LAYERS = 64, 96, 2  # published: 1024, 2730, 12; an attention head is 64 wide
TEXT_TOKENS, IMAGE_TOKENS = 64, 256
CODES, CODE_WIDTH = 2**14, 256  # of the pictures' vocabulary; min-dalle begins each with the last code
# Norms that were trained without a scale, which the published files do not have.
SCALELESS = ("pre_self_attn_layer_norm", "pre_encoder_attn_layer_norm", "glu.ln0", "glu.ln1", "final_ln")
GUIDED = 4.0  # how much more than noise the words weigh


def make_dalle_mini(target: Path, random: np.random.RandomState) -> None:
    """Write dalle_bart_mini/ and vqgan/ as min-dalle keeps them.

    Its network of pictures has one size only, 46.7 million numbers: here each tensor looks at the same few again and
    again, so that the file has 1 MB.
    """
    words = _words()
    bart, vqgan = target / "dalle_bart_mini", target / "vqgan"
    for folder in (bart, vqgan):
        folder.mkdir(exist_ok=True)
    write_json(bart / "vocab.json", {word: place for place, word in enumerate(words)})
    (bart / "merges.txt").write_text("#version: 0.2\nd o\ndo g\n", encoding="utf-8")
    torch.save(_drawn(random, encoder(len(words))), bart / "encoder.pt")
    torch.save(_drawn(random, decoder()), bart / "decoder.pt")
    torch.save({name: _seen(random, name, shape) for name, shape in detokenizer().items()}, vqgan / "detoker.pt")


def _words() -> list[str]:
    """Return the special tokens, the space (Ġ) and the letters of ASCII, and two that are merged."""
    return ["<s>", "<pad>", "</s>", "<unk>", chr(ord(" ") + 256), *map(chr, range(33, 127)), "do", "dog"]


def encoder(words: int) -> Shapes:
    """Return the name and shape of every tensor of the network that reads the prompt."""
    return _bart(words, TEXT_TOKENS, {"self_attn": "pre_self_attn_layer_norm"})


def decoder() -> Shapes:
    """Return the name and shape of every tensor of the network that writes the picture's tokens."""
    norms = {"self_attn": "pre_self_attn_layer_norm", "encoder_attn": "pre_encoder_attn_layer_norm"}
    return _bart(CODES + 1, IMAGE_TOKENS, norms) | {"lm_head.weight": (CODES + 1, WIDTH)}


def _bart(vocabulary: int, positions: int, attentions: dict[str, str]) -> Shapes:
    found: Shapes = {"embed_tokens.weight": (vocabulary, WIDTH), "embed_positions.weight": (positions, WIDTH)}
    found |= _norm("layernorm_embedding", WIDTH) | _norm("final_ln", WIDTH)
    for layer in (f"layers.{number}" for number in range(LAYERS)):
        for attention, before in attentions.items():
            found |= {f"{layer}.{attention}.{part}_proj.weight": (WIDTH, WIDTH) for part in ("k", "v", "q", "out")}
            found |= _norm(f"{layer}.{before}", WIDTH) | _norm(f"{layer}.{attention}_layer_norm", WIDTH)
        found |= _norm(f"{layer}.glu.ln0", WIDTH) | _norm(f"{layer}.glu.ln1", MIDDLE)
        found |= {f"{layer}.glu.fc{part}.weight": (MIDDLE, WIDTH) for part in (0, 1)}
        found[f"{layer}.glu.fc2.weight"] = (WIDTH, MIDDLE)
    return found


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias") if part == "bias" or not name.endswith(SCALELESS)}


def detokenizer() -> Shapes:
    """Return the name and shape of every tensor of VQGAN's decoder, in its one size."""
    found: Shapes = {"embedding.weight": (CODES, CODE_WIDTH)}
    found |= _convolution("post_quant_conv", CODE_WIDTH, CODE_WIDTH, 1)
    found |= _convolution("decoder.conv_in", CODE_WIDTH, 512, 3)
    found |= _block("decoder.mid.block_1", 512, 512) | _attention("decoder.mid.attn_1")
    found |= _block("decoder.mid.block_2", 512, 512)
    for level, (wide, narrow) in enumerate(((128, 128), (256, 128), (256, 256), (512, 256), (512, 512))):
        up = f"decoder.up.{level}"
        for place in range(3):
            found |= _block(f"{up}.block.{place}", narrow if place else wide, narrow)
            found |= _attention(f"{up}.attn.{place}") if level == 4 else {}
        found |= _convolution(f"{up}.upsample.conv", narrow, narrow, 3) if level else {}
    return found | _norm("decoder.norm_out", 128) | _convolution("decoder.conv_out", 128, 3, 3)


def _block(name: str, wide: int, narrow: int) -> Shapes:
    found = _norm(f"{name}.norm1", wide) | _convolution(f"{name}.conv1", wide, narrow, 3)
    found |= _norm(f"{name}.norm2", narrow) | _convolution(f"{name}.conv2", narrow, narrow, 3)
    return found if wide == narrow else found | _convolution(f"{name}.nin_shortcut", wide, narrow, 1)


def _attention(name: str) -> Shapes:
    found = _norm(f"{name}.norm", 512)
    for part in ("q", "k", "v", "proj_out"):
        found |= _convolution(f"{name}.{part}", 512, 512, 1)
    return found


def _convolution(name: str, wide: int, narrow: int, side: int) -> Shapes:
    return {f"{name}.weight": (narrow, wide, side, side), f"{name}.bias": (narrow,)}


def _drawn(random: np.random.RandomState, shapes: Shapes) -> dict[str, Tensor]:
    """Return tensors of halves, as the larger of the published networks has them."""
    found = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            values = 0.1 * values + (name.endswith("weight"))
        elif "_attn." in name:
            values *= GUIDED / np.sqrt(shape[1])
        elif not name.startswith("embed"):
            values *= 1 / np.sqrt(shape[1])
        found[name] = torch.from_numpy(values).half()
    return found


def _seen(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor whose numbers stand several times in it: in the file, and in memory, each stands once."""
    if len(shape) == 1:
        return torch.full(shape, 1.0 if name.endswith("weight") else 0.5 if name == "decoder.conv_out.bias" else 0.0)
    strides = (1, 61) if len(shape) == 2 else (5, 2, shape[3], 1)
    count = 1 + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    scale = 1.0 if len(shape) == 2 else 1 / np.sqrt(np.prod(shape[1:]))
    values = torch.from_numpy((scale * random.standard_normal(count)).astype(np.float32))
    return torch.as_strided(values, shape, strides)
