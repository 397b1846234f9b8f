"""The encoders by name: their settings, and the networks that they describe."""

from typing import Annotated

from pydantic import Field

from mmray.fusion.encoder import Encoder
from mmray.fusion.film_cnn import FilmCnn, FilmEncoder
from mmray.fusion.image_cnn import ImageCnn, ImageEncoder
from mmray.fusion.mlp import Mlp, MlpEncoder
from mmray.fusion.sound_cnn import SoundCnn, SoundEncoder

EncoderSettings = Annotated[Mlp | ImageCnn | FilmCnn | SoundCnn, Field(discriminator="name")]

__all__ = ["Encoder", "EncoderSettings", "FilmCnn", "ImageCnn", "Mlp", "SoundCnn", "make"]


def make(settings: Mlp | ImageCnn | FilmCnn | SoundCnn, dim: int) -> Encoder:
    """Return the encoder for windows of ``dim`` numbers; ConfigError where they cannot be what it reads."""
    match settings:
        case Mlp():
            return MlpEncoder(settings, dim)
        case ImageCnn():
            return ImageEncoder(settings, dim)
        case FilmCnn():
            return FilmEncoder(settings, dim)
        case SoundCnn():
            return SoundEncoder(settings)
