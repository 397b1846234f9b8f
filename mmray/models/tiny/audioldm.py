"""Tiny checkpoints of the networks that make sounds, in the folders of diffusers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmray.models.diffusion import hushed
from mmray.models.tiny import clap
from mmray.models.tiny.diffusion import BETAS, save, untyped, vae
from mmray.models.tiny.parts import SIZE

BLOCKS: dict[str, Any] = {
    "sample_size": 32,  # 1.28 s
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
WORDS, THOUGHTS = SIZE["hidden_size"], 16  # numbers for each token of T5, of GPT-2


def make_audioldm(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as cvssp/audioldm-s-full-v2 has it on the hub: 64 bands, 10 ms a frame, 4 frames a latent."""
    del random
    library = untyped()
    from transformers import ClapTextModelWithProjection

    config = clap.config({})
    unet = library.UNet2DConditionModel(
        **BLOCKS,
        cross_attention_dim=(16, 32),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=config.projection_dim,
        class_embeddings_concat=True,
    )
    with hushed():
        pipeline = library.AudioLDMPipeline(
            vae=vae(0.9, channels=1, stages=3),
            text_encoder=ClapTextModelWithProjection(config.text_config),
            tokenizer=clap.words(),
            unet=unet,
            scheduler=library.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False),
            vocoder=_vocoder(),
        )
    save(pipeline, target)


def make_audioldm2(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as cvssp/audioldm2 has it on the hub, where a GPT-2 without its head is the language model."""
    del random
    library = untyped()
    from transformers import ClapFeatureExtractor, ClapModel, GPT2Config, GPT2Model, T5Config, T5EncoderModel

    words = _pieces()
    config = clap.config({})
    size: dict[str, Any] = {"d_model": WORDS, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    more: Any = {"max_new_tokens": 8}
    thoughts = GPT2Config(
        n_embd=THOUGHTS, n_layer=2, n_head=2, n_positions=128, vocab_size=32, **more,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    pipeline = library.AudioLDM2Pipeline(
        vae=vae(0.9, channels=1, stages=3),
        text_encoder=ClapModel(config),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=len(words), **size)),
        projection_model=library.AudioLDM2ProjectionModel(
            text_encoder_dim=config.projection_dim, text_encoder_1_dim=WORDS, langauge_model_dim=THOUGHTS
        ),
        language_model=GPT2Model(thoughts),
        tokenizer=clap.words(),
        tokenizer_2=words,
        feature_extractor=ClapFeatureExtractor(**clap.FRONT_END),
        unet=library.AudioLDM2UNet2DConditionModel(**BLOCKS, cross_attention_dim=((None, THOUGHTS, WORDS),) * 2),
        scheduler=library.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False),
        vocoder=_vocoder(),
    )
    save(pipeline, target)


def _pieces() -> Any:
    """Return a T5 tokenizer of single letters."""
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters]
    return T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=64)


def _vocoder() -> Any:
    """Return a HiFi-GAN for 64 bands at 16 kHz, of 160 samples a frame, which is loud enough to be heard."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    net = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=64,
            sampling_rate=16_000,
            upsample_initial_channel=32,
            upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 8, 4, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]],
            normalize_before=False,
        )
    )
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.dim() > 1:
                gain = 1.2 if "upsampler" in name else 1.0
                weight.mul_(gain / (weight.std() * weight[0].numel() ** 0.5))
    return net
