"""Peak memory of an extractor with random weights of the real size.

``python -m tests.extractors.full_size NAME FOLDER``: run once to write the checkpoint, and again, in a process without
that past, to measure: it prints one line of JSON.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmray.extractors import registry
from mmray.models import tiny
from mmray.models.torch_setup import ensure_torchaudio, quiet
from mmray.specs import AudioSpec, FrameSpec, Gathered, Text

from .streams import frames, sound, wave

WHISPER_SMALL = {
    "d_model": 768, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 12, "vocab_size": 51_865,
    "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "max_target_positions": 448,
}  # fmt: skip
BART_LARGE = {
    "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 16, "vocab_size": 50_265,
    "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096, "max_position_embeddings": 1024,
}  # fmt: skip
# (class of transformers, what its configuration has beside its defaults; None: that of the tiny folder as a whole)
HUB: dict[str, tuple[str, dict[str, Any]]] = {
    "clap": ("ClapModel", {}),
    "clip": ("CLIPModel", {}),
    "distilbert": ("DistilBertModel", {}),
    "rtdetr": ("RTDetrForObjectDetection", {}),
    "sbert": ("BertModel", {}),
    "summary": ("BartForConditionalGeneration", BART_LARGE),
    "videomae": ("VideoMAEForPreTraining", {}),
    "vitmae": ("ViTMAEForPreTraining", {}),
    "vivit": ("VivitModel", {}),
    "whisper": ("WhisperForConditionalGeneration", WHISPER_SMALL),
    "zero_shot": ("BartForSequenceClassification", BART_LARGE),
}
SIZES = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
PICTURES = {
    "clip": SIZES,
    "rtdetr": {"size": {"height": 640, "width": 640}},
    "videomae": SIZES,
    "vitmae": {"size": 224},
    "vivit": {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "vivit": {"tokens": True},
    "whisper": {"gate": None},
    "zero_shot": {"candidate_labels": ("bird", "dog", "rain", "wind")},
}


def write(name: str, folder: Path) -> None:
    """Write the tiny checkpoint, and in the place of its network one of the real size."""
    tiny.make_tiny(folder.parent, names=[name])
    (folder.parent / name).rename(folder)
    ensure_torchaudio()
    import transformers

    kind, size = HUB[name]
    cls = getattr(transformers, kind)
    about = json.loads((folder / "config.json").read_text())
    kept = {
        key: about[key] for key in about if key.endswith("_token_id") or key in ("id2label", "label2id", "num_labels")
    }
    generation = folder / "generation_config.json"
    said = generation.read_bytes() if generation.is_file() else None
    with quiet():
        cls(cls.config_class(**{**kept, **size})).save_pretrained(folder)
    if said is not None:
        generation.write_bytes(said)  # saving a network writes another
    if name in PICTURES:
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | PICTURES[name]))
    for file in (folder / "tokenizer_config.json", folder / "sentence_bert_config.json"):
        if file.is_file():
            limits = {"model_max_length": 1024 if "Bart" in kind else 512, "max_seq_length": 512}
            known = json.loads(file.read_text())
            file.write_text(json.dumps(known | {key: limits[key] for key in limits if key in known}))


def items(extractor: Any) -> list[Any]:
    """Return one full batch of the longest items there are."""
    spec = extractor.specs[0]
    if isinstance(spec, FrameSpec):
        pictures = frames(spec, 32 if extractor.gather else extractor.batch_size)
        return [Gathered((pictures,), 0.0, None, 32.0)] * extractor.batch_size if extractor.gather else pictures
    if isinstance(spec, AudioSpec):
        return [wave(spec, sound(1, extractor.batch_size * spec.hop_s + 1, spec.rate_hz))]
    return [Text("the rain in spain stays " * 150)]  # of letters: 3,600 tokens


def measure(name: str, path: str) -> None:
    """Load it, run one batch, and print rows and peak memory in GB."""
    torch.set_num_threads(1)
    extractor = registry.get(name)(**SETTINGS.get(name, {})).resolved(path)
    found = list(extractor.load("cpu", path)(items(extractor)))
    rows = sum(len(one) for one in found)
    numbers = [
        np.asarray(column, np.float32) for one in found for key, column in one.columns.items() if key == "embedding"
    ]
    assert all(np.isfinite(column).all() for column in numbers)
    print(json.dumps({"rows": rows, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


if __name__ == "__main__":
    place = Path(sys.argv[2])
    if place.exists():
        measure(sys.argv[1], str(place))
    else:
        write(sys.argv[1], place)
