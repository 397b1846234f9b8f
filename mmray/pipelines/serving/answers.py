"""What clients are sent: OpenAI's shapes, and our own in the same style; ``b64_json`` and ``..._b64`` are files."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # of Python 3.11 pydantic does not take its own


class Picture(TypedDict):
    """A picture that was made: PNG, as base64 or as a data URI; ``scores`` by name where the model gives any."""

    b64_json: NotRequired[str]
    url: NotRequired[str]
    seed: int
    scores: dict[str, float]


class Pictures(TypedDict):
    """Pictures, in the order of their seeds."""

    created: int
    data: list[Picture]
    output_format: Literal["png"]


class Sound(TypedDict):
    """A sound that was made: WAV."""

    b64_json: str
    rate_hz: int
    seconds: float
    seed: int
    scores: dict[str, float]


class Sounds(TypedDict):
    """Sounds, in the order of their seeds."""

    created: int
    data: list[Sound]
    output_format: Literal["wav"]


class SoundingPicture(TypedDict):
    """An image that sounds: the picture, the spectrogram that the sound was made of, the sound."""

    b64_json: str
    spectrum_b64: str | None
    sound_b64: str
    rate_hz: int
    seconds: float
    seed: int
    scores: dict[str, float]


class SoundingPictures(TypedDict):
    """Images that sound, in the order of their seeds."""

    created: int
    data: list[SoundingPicture]
    output_format: Literal["png"]


class Story(TypedDict):
    """A picture, a sound, a caption, and a film of them (MP4)."""

    video_b64: str
    b64_json: str
    sound_b64: str
    rate_hz: int
    seconds: float
    caption: str
    seed: int
    scores: dict[str, float]


class Stories(TypedDict):
    """One story."""

    created: int
    data: list[Story]


class Caption(TypedDict):
    """What a picture shows."""

    text: str


class Captions(TypedDict):
    """One caption."""

    data: list[Caption]
    model: str


class Embedding(TypedDict):
    """The vector of one text; as base64 it is float32, little-endian."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(TypedDict):
    """Tokens, which are not counted here: 0."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """The vectors of all texts, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Segment(TypedDict):
    """A segment of a transcript, from ``start`` to ``end`` in seconds. ``no_speech_prob`` is not told: 0."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class Seconds(TypedDict):
    """How long a medium lasts."""

    type: Literal["duration"]
    seconds: float


class Transcript(TypedDict):
    """What is said; the rest is that of ``verbose_json``."""

    text: str
    task: NotRequired[Literal["transcribe"]]
    language: NotRequired[str]
    duration: NotRequired[float]
    segments: NotRequired[list[Segment]]
    usage: Seconds


class Share(TypedDict):
    """How well a label fits."""

    label: str
    score: float


class Shares(TypedDict):
    """All labels, the best first; the scores sum to 1."""

    data: list[Share]
    model: str


class Classes(Shares):
    """All classes, the best first; ``inputs``: which of them the network was given."""

    inputs: dict[str, bool]


class Hit(TypedDict):
    """A sample of the store, and the part of it that was compared."""

    rank: int
    sample_id: str
    score: float
    label: NotRequired[str]
    start_s: NotRequired[float]
    end_s: NotRequired[float]
    uri: NotRequired[str]
    text: NotRequired[str]


class Hits(TypedDict):
    """The samples that are nearest, the nearest first; of ``compared`` vectors, ``exact`` where with each of them."""

    data: list[Hit]
    extractor: str
    pooling: str | None
    compared: int
    exact: bool


class Model(TypedDict):
    """One model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: str
    generator: str | None
    pool: str | None
    routes: list[str]
    weights: str | None
    licence: str | None
    non_commercial: bool


class Models(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[Model]


class Steps(TypedDict):
    """Steps that are done, and all of them (0: not known yet)."""

    done: int
    total: int


class Job(TypedDict):
    """Work that nobody waits for; ``result`` is what the route answers without ``background``."""

    id: str
    object: Literal["job"]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    route: str
    created: int
    progress: Steps
    error: dict[str, Any] | None
    result: NotRequired[dict[str, Any] | None]


class Jobs(TypedDict):
    """The jobs of the caller, the newest first, without their results."""

    object: Literal["list"]
    data: list[Job]


class Health(TypedDict):
    """The endpoint answers."""

    status: Literal["ok"]


class Readiness(TypedDict):
    """Whether all models can be asked, and the state of each."""

    ready: bool
    models: dict[str, str]
