"""Tiny checkpoints of the networks that make pictures, in the folders of diffusers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmray.models.diffusion import hushed
from mmray.models.tiny.parts import SIZE
from mmray.models.torch_setup import ensure_torchaudio

CROSS = 32  # numbers for each token that a text tower of SIZE gives
# Of the published noise schedules.
BETAS: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
}  # fmt: skip


def make_stable_diffusion(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as stable-diffusion-v1-5/stable-diffusion-v1-5 has it on the hub: 64 x 64 px, 8 px a latent."""
    del random
    library = untyped()
    pipeline = library.StableDiffusionPipeline(
        vae=vae(0.18215),
        text_encoder=_text_tower("CLIPTextModel"),
        tokenizer=_tokenizer(),
        unet=_unet(cross_attention_dim=CROSS, attention_head_dim=4),
        scheduler=library.PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    save(pipeline, target)


def make_stable_diffusion_xl(target: Path, random: np.random.RandomState) -> None:
    """Write a folder as stabilityai/stable-diffusion-xl-base-1.0 has it on the hub: two text towers, sizes as input."""
    del random
    library = untyped()
    unet = _unet(
        cross_attention_dim=2 * CROSS,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=CROSS + 6 * 8,
    )
    pipeline = library.StableDiffusionXLPipeline(
        vae=vae(0.13025),
        text_encoder=_text_tower("CLIPTextModel"),
        text_encoder_2=_text_tower("CLIPTextModelWithProjection"),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=unet,
        scheduler=library.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
    )
    save(pipeline, target)


def untyped() -> Any:
    """Return diffusers, whose classes have no types."""
    ensure_torchaudio()
    import diffusers

    return diffusers


def vae(scaling: float, channels: int = 3, latents: int = 4, stages: int = 4) -> Any:
    """Return a VAE that makes a side 2 ** (stages - 1) times shorter."""
    return untyped().AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        latent_channels=latents,
        block_out_channels=(8,) * stages,
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=scaling,
    )


def save(pipeline: Any, target: Path) -> None:
    """Write the folder, with weights that make what comes out depend on the prompt."""
    _heed_words(pipeline.unet)
    with hushed():
        pipeline.save_pretrained(target)


def _heed_words(unet: Any) -> None:
    """Scale fresh weights of what reads a text, which all but average it away."""
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if (".attn2." in name or "class_embedding" in name) and weight.dim() > 1:
                weight.mul_(4.0)


def _unet(**settings: Any) -> Any:
    return untyped().UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **settings,
    )


def _tokenizer() -> Any:
    """Return a tokenizer of single bytes, 77 of them."""
    from transformers import CLIPTokenizer

    words = _words()
    return CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=77)


def _words() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    return [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]


def _text_tower(name: str) -> Any:
    import transformers

    end = len(_words()) - 1
    config = transformers.CLIPTextConfig(
        **SIZE,
        vocab_size=end + 1,
        max_position_embeddings=77,
        projection_dim=CROSS,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    return getattr(transformers, name)(config)
