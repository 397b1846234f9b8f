"""The networks of one Stable Diffusion folder, each by itself: words, noise and pictures of one latent space.

Source: Rombach et al. 2022. Folders as diffusers writes them (tokenizer, text_encoder, unet, vae, scheduler), read
offline; a tensor that is missing is an error, never a random number.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmray.errors import ConfigError
from mmray.models import hub
from mmray.models.diffusion import finite, hushed
from mmray.models.tokenizer import Tokenizer
from mmray.models.torch_setup import ensure_torchaudio

LATENT_PX = 8  # of a picture's side


class LatentDiffusion:
    """The networks of the folder ``path`` on ``device``.

    Tensors go in and come out in float32, whatever the networks reckon in. Pictures are (n, 3, height, width) from 0
    to 1, latents (n, channels, height / 8, width / 8).
    """

    def __init__(self, path: str, precision: str, device: str) -> None:
        """Load them; ConfigError, naming file and tensor, where one is missing, damaged or of another kind."""
        self.path, self.precision, self.device = path, precision, device
        self.scheduler = _scheduler(Path(path) / "scheduler" / "scheduler_config.json")
        with hushed():
            self._text_encoder = hub.load("CLIPTextModel", f"{path}/text_encoder", precision, device)
            self._unet = hub.load("UNet2DConditionModel", f"{path}/unet", precision, device)
            self._vae = hub.load("AutoencoderKL", f"{path}/vae", precision, device)
        self._tokenizer = Tokenizer(f"{path}/tokenizer", self._text_encoder.config, device)
        self.channels = int(self._vae.config.latent_channels)
        width, wanted = self._text_encoder.config.hidden_size, self._unet.config.cross_attention_dim
        if width != wanted:
            raise ConfigError(f"{path}: text_encoder gives {width} numbers a token, and unet wants {wanted}")
        if self._unet.config.in_channels != self.channels:
            raise ConfigError(
                f"{path}: unet reads {self._unet.config.in_channels} channels, and latents have {self.channels}; give "
                "a folder that makes pictures of words alone"
            )
        if 2 ** (len(self._vae.config.block_out_channels) - 1) != LATENT_PX or self._vae.config.in_channels != 3:
            raise ConfigError(f"{path}/vae: does not make one latent of {LATENT_PX} x {LATENT_PX} px of 3 colours")

    def too_long(self, text: str) -> str | None:
        """Say by how much a text is longer than the text encoder reads; None where it is not."""
        count, limit = self._tokenizer.count(text), self._tokenizer.limit
        return f"has {count} tokens, and {self.path} reads {limit}" if count > limit else None

    def embedded(self, texts: Sequence[str]) -> Tensor:
        """Return what the text encoder says of each token: (n, tokens, width)."""
        inputs = self._tokenizer.library(
            list(texts),
            padding="max_length",
            max_length=self._tokenizer.limit,
            split_special_tokens=True,
            return_tensors="pt",
        ).to(self.device)
        heeded = getattr(self._text_encoder.config, "use_attention_mask", False)
        states: Tensor = self._text_encoder(
            inputs["input_ids"], attention_mask=inputs["attention_mask"] if heeded else None
        )[0]
        return states.float()

    def noise(self, latents: Tensor, time: Tensor, words: Tensor) -> Tensor:
        """Return the U-Net's estimate for latents at one time step, each with its words."""
        dtype = self._unet.dtype
        estimate: Tensor = self._unet(latents.to(dtype), time, encoder_hidden_states=words.to(dtype))[0]
        return estimate.float()

    def decoded(self, latents: Tensor) -> Tensor:
        """Return pictures; one at a time, which bounds the memory and lets no picture depend on its neighbours."""
        scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype)
        pictures = torch.cat([self._vae.decode(latent)[0] for latent in torch.split(scaled, 1)])
        found: Tensor = finite(pictures, self.path, self.precision)
        return (found.float() / 2 + 0.5).clamp(0, 1)

    def encoded(self, pictures: Tensor) -> Tensor:
        """Return the most likely latents of pictures."""
        scaled = (pictures * 2 - 1).to(self._vae.dtype)
        latents = torch.cat([self._vae.encode(picture)[0].mode() for picture in torch.split(scaled, 1)])
        found: Tensor = latents.float() * self._vae.config.scaling_factor
        return found


def _scheduler(file: Path) -> Any:
    """Return the scheduler that a file describes; latents are never clipped, whatever it leaves out."""
    ensure_torchaudio()
    import diffusers

    settings = hub.read_json(file)
    name = settings.typed("_class_name", "")
    kind: Any = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if not all(hasattr(kind, method) for method in ("from_config", "scale_model_input", "add_noise")):
        raise ConfigError(f"{file}: _class_name is {name!r}, and none of diffusers' schedulers for latents")
    with hushed():
        return kind.from_config({"clip_sample": False, **settings})
