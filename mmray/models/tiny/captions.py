"""A tiny checkpoint of the network that says what is on a picture."""

import string
from pathlib import Path

import numpy as np
import torch

from mmray.models.tiny.parts import SIZE, write_json
from mmray.models.torch_setup import ensure_torchaudio, quiet

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONGEST = 64  # tokens


def make_blip(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as Salesforce/blip-image-captioning-base has it on the hub: letters for words."""
    del random
    ensure_torchaudio()
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    words = [
        *SPECIALS,
        *string.ascii_lowercase,
        *(f"##{letter}" for letter in string.ascii_lowercase),
        "[DEC]",
        "[ENC]",
    ]
    vocabulary = {word: place for place, word in enumerate(words)}
    BertTokenizer(
        vocab=vocabulary, model_max_length=LONGEST, additional_special_tokens=["[DEC]", "[ENC]"]
    ).save_pretrained(target)
    text = {
        **SIZE,
        "vocab_size": len(words),
        "max_position_embeddings": LONGEST,
        "bos_token_id": vocabulary["[DEC]"],
        "eos_token_id": 2,
        "sep_token_id": 3,
        "pad_token_id": 0,
        "is_decoder": True,
    }
    vision = {**SIZE, "image_size": 32, "patch_size": 8, "initializer_range": 0.3}  # its default is 1e-10
    net = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=24, projection_dim=24)
    )
    with torch.no_grad():
        for name, weight in net.text_decoder.named_parameters():
            if weight.dim() > 1:  # fresh weights all but cancel each other: what is seen must decide what is said
                weight.mul_(10.0 if "crossattention" in name else 4.0)
    with quiet():
        net.save_pretrained(target)
    preprocessor = {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    write_json(target / "preprocessor_config.json", preprocessor)
