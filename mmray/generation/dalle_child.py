"""DALL·E mini in a process of its own, because importing min-dalle changes torch for good.

It turns gradients off, takes all cores and sets flags of cuDNN. ``python -m mmray.generation.dalle_child FD``: commands
come over the socket FD and answers go there, JSON but for the pictures, which are plain bytes. When the other end is
closed, the process ends.
"""

import importlib
import json
import sys
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmray.errors import ConfigError
from mmray.models import hub, tensors
from mmray.models.tensors import Tensors

FOLDERS = ("dalle_bart_mini", "dalle_bart_mega")
TEXT_TOKENS, IMAGE_TOKENS = 64, 256
HEAD = 64  # numbers of an attention head, in both published networks
SPECIAL = ("<s>", "</s>", "<unk>")


class Stopped(Exception):  # noqa: N818 — it is no fault
    """Nobody wants the picture any more."""


class Painter:
    """min-dalle with the networks of a folder; ConfigError, naming file and tensor, where they are none of its own."""

    def __init__(self, path: str, device: str, precision: str, threads: int) -> None:
        bart = next((place for name in FOLDERS if (place := Path(path) / name).is_dir()), None)
        if bart is None:
            raise ConfigError(f"{path}: holds no DALL·E mini: {' or '.join(FOLDERS)} is missing")
        read, written = (_whole(bart / name) for name in ("encoder.pt", "decoder.pt"))
        seen = tensors.read(Path(path) / "vqgan" / "detoker.pt")

        library: Any = importlib.import_module("min_dalle")
        parts: Any = importlib.import_module("min_dalle.models")
        words: Any = importlib.import_module("min_dalle.text_tokenizer")
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # which the library has just allowed: float32 stays whole

        sizes = _sizes(bart / "encoder.pt", read)
        text_codes = sizes.pop("codes")
        image_sizes = _sizes(bart / "decoder.pt", written)
        image_codes = image_sizes.pop("codes")
        with torch.device("meta"):  # no memory, and no random numbers, for weights that come from the files
            encoder = parts.DalleBartEncoder(
                **sizes, text_vocab_count=text_codes, text_token_count=TEXT_TOKENS, device=device
            )
            decoder = parts.DalleBartDecoder(**image_sizes, image_vocab_count=image_codes - 1, device=device)
            detokenizer = parts.VQGanDetokenizer()
        dtype = getattr(torch, precision)
        _fill(encoder, bart / "encoder.pt", read, device, dtype)
        _fill(decoder, bart / "decoder.pt", written, device, dtype)
        _fill(detokenizer, Path(path) / "vqgan" / "detoker.pt", seen, device, torch.float32)
        decoder.lm_head.register_forward_hook(self._written)

        # Without its constructor, which asks a hub in any case, and knows two sizes only.
        self._library = library.MinDalle.__new__(library.MinDalle)
        vars(self._library).update(
            device=device, dtype=dtype, is_reusable=True, text_token_count=TEXT_TOKENS,
            layer_count=image_sizes["layer_count"], embed_count=image_sizes["embed_count"],
            tokenizer=words.TextTokenizer(_vocabulary(bart / "vocab.json", text_codes), _merges(bart / "merges.txt")),
            encoder=encoder, decoder=decoder, detokenizer=detokenizer,
        )  # fmt: skip
        self._path, self._plain = path, words.demojize
        self._tell: Callable[[], None] = lambda: None

    def _written(self, *_: object) -> None:
        self._tell()

    def problem(self, prompt: str) -> str | None:
        """Say which of a prompt's words would be lost; None where all are read."""
        plain = self._plain(prompt, delimiters=("", "")).lower()  # emoji by their names, as the tokenizer has them
        if lost := sorted({letter for letter in plain if not letter.isascii()}):
            return f"has letters that {self._path} does not read: {' '.join(lost)}; write it in plain ASCII"
        tokens = len(self._library.tokenizer.tokenize(prompt))
        return f"has {tokens} tokens, and {self._path} reads {TEXT_TOKENS}" if tokens > TEXT_TOKENS else None

    def picture(self, prompt: str, seed: int, guidance: float, tell: Callable[[], None]) -> bytes:
        """Return a picture, uint8 RGB; ``tell`` is called after each token, and what it raises ends the work."""
        self._tell = tell
        torch.manual_seed(seed)  # here: to the library a seed of 0 is none
        (picture,) = self._library.generate_raw_image_stream(
            prompt, seed=0, grid_size=1, supercondition_factor=guidance
        )
        if not bool(picture.isfinite().all()):
            raise ArithmeticError("the picture has numbers that are none")
        return bytes(picture.to(torch.uint8).cpu().numpy().tobytes())


def _whole(file: Path) -> Tensors:
    found = tensors.read(file)
    if sum(tensor.numel() for tensor in found.values()) > file.stat().st_size:
        raise ConfigError(f"{file}: its tensors claim more numbers than the file has bytes")
    return found


def _sizes(file: Path, found: Tensors) -> dict[str, int]:
    """Return what the library wants to know of a network, from the shapes of its tensors."""
    codes, width = _shape(file, found, "embed_tokens.weight")
    middle, _ = _shape(file, found, "layers.0.glu.fc0.weight")
    if width % HEAD:
        raise ConfigError(f"{file}: tensor embed_tokens.weight is {width} wide, and should be a multiple of {HEAD}")
    layers = len({name.split(".")[1] for name in found if name.startswith("layers.")})
    return {
        "codes": codes, "embed_count": width, "attention_head_count": width // HEAD,
        "glu_embed_count": middle, "layer_count": layers,
    }  # fmt: skip


def _shape(file: Path, found: Tensors, name: str) -> tuple[int, int]:
    if name not in found:
        raise ConfigError(f"{file}: tensor {name} is missing")
    if found[name].ndim != 2:
        raise ConfigError(f"{file}: tensor {name} has {found[name].ndim} dimensions, and should have 2")
    rows, columns = found[name].shape
    return rows, columns


def _fill(net: nn.Module, file: Path, found: Tensors, device: str, dtype: torch.dtype) -> None:
    """Put the tensors of a file in their places; the published files leave out the scales of norms that have none."""
    norms = {f"{name}.weight" for name, part in net.named_modules() if isinstance(part, nn.LayerNorm)}
    made = {
        name: _tensor(file, found, name, place.shape, norms).to(device, dtype).contiguous()
        for name, place in net.state_dict().items()
    }
    net.load_state_dict(made, assign=True)
    net.requires_grad_(False).eval()


def _tensor(file: Path, found: Tensors, name: str, shape: torch.Size, norms: Collection[str]) -> Tensor:
    if name not in found and name in norms:
        return torch.ones(shape)
    if name not in found:
        raise ConfigError(f"{file}: tensor {name} is missing")
    tensor = found[name]
    if tensor.shape != shape or not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        about = f"{tuple(tensor.shape)} {tensor.dtype}"
        raise ConfigError(f"{file}: tensor {name} is {about}, and should be {tuple(shape)} finite floats")
    return tensor


def _vocabulary(file: Path, codes: int) -> dict[str, int]:
    found = hub.read_json(file)
    if missing := [word for word in SPECIAL if word not in found]:
        raise ConfigError(f"{file}: {missing[0]} is missing")
    for word, code in found.items():
        if type(code) is not int or not 0 <= code < codes:
            raise ConfigError(f"{file}: {word!r} is {code!r}, and encoder.pt has {codes} words")
    return dict(found)


def _merges(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split("\n")[1:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error


def serve(line: Connection) -> None:
    """Carry out commands until the other end is closed."""
    painter: Any = None

    def tell() -> None:
        line.send_bytes(b"{}")
        if not json.loads(line.recv_bytes())["go"]:
            raise Stopped

    while True:
        words = json.loads(line.recv_bytes())
        do, refused = words.pop("do"), None
        if do == "make":
            try:
                line.send_bytes(painter.picture(**words, tell=tell))
            except Stopped:
                continue
        elif do == "check":
            line.send_bytes(json.dumps({"refused": painter.problem(**words)}).encode())
        else:
            try:
                painter = Painter(**words)
            except ConfigError as error:
                refused = str(error)
            line.send_bytes(json.dumps({"refused": refused}).encode())


if __name__ == "__main__":
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, ConnectionError):
        sys.exit(0)  # nobody is there any more
