"""What clients may send: OpenAI's shapes, and our own in the same style. Other fields are refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=500)]  # of anything: what is wrong with it is told with it
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Steps = Annotated[int | None, Field(ge=1, le=1000)]
Guidance = Annotated[float | None, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=1, le=64)]
Share = Annotated[float, Field(ge=0, le=1)]


class Asked(BaseModel):
    """The body of a request.

    ``background``: true makes it a job. (OpenAI's clients may send null, "auto" or "opaque" there, of pictures.)
    """

    model_config = ConfigDict(extra="forbid", strict=True)  # forms, whose numbers are text, are read laxly

    model: Name | None = None
    background: bool | Literal["auto", "opaque"] | None = False
    user: str | None = None


class Prompted(Asked):
    """What pictures and sounds are made of; what is left out is as the served model says.

    ``best``: of the ``n`` made return so many, the best first, by CLIP (pictures) and CLAP (sounds).
    """

    prompt: Text
    negative_prompt: str = ""
    n: Count | None = 1
    best: Count | None = None
    seed: Seed = 0
    steps: Steps = None
    guidance: Guidance = None


class ImagesAsked(Prompted):
    """OpenAI's ``images/generations``; result i has the seed ``seed`` + i. As ``url`` a picture is a data URI."""

    size: str | None = Field(None, pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$", examples=["512x512"])
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png"] | None = None
    quality: str | None = None
    style: str | None = None
    moderation: str | None = None


class EditAsked(ImagesAsked):
    """OpenAI's ``images/edits``: start from ``image``, of which ``strength`` 1 leaves nothing."""

    image: bytes = Field(exclude=True, repr=False)
    strength: float = Field(0.8, gt=0, le=1)


class SoundsAsked(Prompted):
    """Sounds of ``length_s``."""

    length_s: float | None = Field(None, gt=0, le=120)


class SpectrogramsAsked(Asked):
    """Images that sound; ``imprint``: the file of a picture or a sound in base64, to begin with.

    ``imprint_text``: words that are drawn instead; ``best``: of the ``n`` made return so many, by CLIP x CLAP.
    """

    prompt: Text
    sound_prompt: Text
    negative_prompt: str = ""
    negative_sound_prompt: str = ""
    n: Count | None = 1
    best: Count | None = None
    seed: Seed = 0
    steps: Steps = None
    guidance: Guidance = None
    sound_guidance: Guidance = None
    sound_weight: Share | None = None
    picture_from: Share | None = None
    picture_until: Share | None = None
    sound_from: Share | None = None
    sound_until: Share | None = None
    width_px: int | None = Field(None, ge=64, le=8192)
    crop: Literal["pixels", "latents", "none"] | None = None
    imprint: str | None = Field(None, repr=False)
    imprint_text: Text | None = Field(None, max_length=1000)
    strength: Share | None = None


class EmbeddingsAsked(Asked):
    """OpenAI's ``embeddings``, of texts."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"


class TranscriptionAsked(Asked):
    """OpenAI's ``audio/transcriptions``; without ``language`` the model finds it, or it is as the server is configured.

    Decoding is greedy, of segments, without words to begin with: other wishes are refused.
    """

    file: bytes = Field(exclude=True, repr=False)
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    language: Name | None = None
    prompt: Literal[""] = ""
    temperature: float = Field(0, ge=0, le=0)
    timestamp_granularities: list[Literal["segment"]] = ["segment"]


class CaptionAsked(Asked):
    """A picture to describe; the caption goes on where ``prompt`` ends."""

    image: bytes = Field(exclude=True, repr=False)
    prompt: str = ""


class ScoresAsked(Asked):
    """A picture or a sound, and labels that it could have; ``template``: with {} where the label goes."""

    file: bytes = Field(exclude=True, repr=False)
    labels: list[Text] = Field(min_length=1, max_length=1000)
    template: str = "{}"


class ClassificationAsked(Asked):
    """A video, picture or sound to classify; ``text``: what networks that read texts are given."""

    file: bytes = Field(exclude=True, repr=False)
    text: str | None = None


class TextSearchAsked(Asked):
    """What to look for: a text, or a sample of the store.

    ``within``: the partition; ``where``: conditions column=value on the manifest.
    """

    text: Text | None = None
    sample: Name | None = None
    k: int = Field(10, ge=1, le=1000)
    within: Name | None = None
    pooling: Name | None = None
    windows: bool = False
    where: list[Name] = Field([], max_length=100)


class SearchAsked(TextSearchAsked):
    """What to look for: a text, a sample of the store, or an uploaded picture or sound."""

    image: bytes | None = Field(None, exclude=True, repr=False)
    audio: bytes | None = Field(None, exclude=True, repr=False)


class StoryAsked(Asked):
    """One prompt to a picture, a sound, a caption, and a film of them."""

    prompt: Text
    sound_prompt: str = ""
    negative_prompt: str = ""
    seed: Seed = 0
    steps: Steps = None
    guidance: Guidance = None
    size: str | None = Field(None, pattern=r"^(auto|[1-9]\d{0,4}x[1-9]\d{0,4})$")
    length_s: float | None = Field(None, gt=0, le=120)
    audio_model: Name | None = None
    caption_model: Name | None = None


Body = dict[str, Any]
