"""How well results fit their words: cosines by CLIP (pictures) and CLAP (sounds), the best of many, and labels.

Source: Radford et al. 2021; Wu et al. 2023. Weights: openai/clip-vit-base-patch32 (MIT) and laion/clap-htsat-unfused
(Apache-2.0) unless others are named.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, InstanceOf, model_validator

from mmray.generation.base import GenerateFn, Generator, Precision, Progress, Request, RequestError, Result
from mmray.generation.batches import in_batches
from mmray.generation.image import Pixels
from mmray.models.vectors import Vectors

CLIP, CLAP = "openai/clip-vit-base-patch32", "laion/clap-htsat-unfused"


class Judge:
    """CLIP and CLAP on one device; each is loaded when it is first needed. A path that is None is not there."""

    def __init__(self, clip: str | None, clap: str | None, precision: Precision = "float32", device: str = "cpu"):
        self._clip_path, self._clap_path = clip, clap
        self._where = precision, device

    def score(self, results: Sequence[Result], pictures: Sequence[str], sounds: Sequence[str]) -> list[Result]:
        """Return results with the scores ``clip`` and ``clap``: the cosines with their words, as far as they have both.

        ``pictures`` and ``sounds``: the words for each result's picture and sound.
        """
        scored = []
        for result, seen, heard in zip(results, pictures, sounds, strict=True):
            scores = dict(result.scores)
            if result.picture is not None and self._clip_path:
                scores["clip"] = float(self.of_pictures([result.picture])[0] @ self.seen([seen])[0])
            if result.sound is not None and self._clap_path:
                scores["clap"] = float(self.of_sounds([result.sound], result.rate_hz)[0] @ self.heard([heard])[0])
            scored.append(replace(result, scores=scores))
        return scored

    def of_pictures(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> Vectors:
        """Return unit vectors (n, dim) of pictures, uint8 (height, width, 3) of any sizes."""
        found: Vectors = self._clip.pictures(pictures)
        return found

    def of_sounds(self, sounds: Sequence[npt.NDArray[np.float32]], rate_hz: int) -> Vectors:
        """Return unit vectors (n, dim) of sounds, float32 (samples,) of any lengths; clips of 10 s are averaged."""
        return np.stack([self._sounds.whole(sound, rate_hz) for sound in sounds])

    def seen(self, texts: Sequence[str]) -> Vectors:
        """Return CLIP's unit vectors (n, dim) of texts; of long texts the mean over pieces."""
        return _described(texts, self._clip.tokenizer, self._clip.texts)

    def heard(self, texts: Sequence[str]) -> Vectors:
        """Return CLAP's unit vectors (n, dim) of texts; of long texts the mean over pieces."""
        return _described(texts, self._words.tokenizer, self._words)

    @cached_property
    def scales(self) -> Mapping[str, float]:
        """Return what cosines are multiplied with before a softmax, by ``picture`` and ``sound``."""
        from mmray.models import clap

        found = {"picture": self._clip.scale} if self._clip_path else {}
        return found | ({"sound": clap.scale(self._clap_path)} if self._clap_path else {})

    @cached_property
    def _clip(self) -> Any:
        from mmray.models.clip import Towers

        assert self._clip_path
        return Towers(self._clip_path, *self._where)

    @cached_property
    def _sounds(self) -> Any:
        from mmray.models.clap import SoundTower

        assert self._clap_path
        return SoundTower(self._clap_path, *self._where)

    @cached_property
    def _words(self) -> Any:
        from mmray.models.clap import TextTower

        assert self._clap_path
        return TextTower(self._clap_path, *self._where)


def best(results: Sequence[Result], n: int) -> list[Result]:
    """Return the n best results, the best first: by CLIP x CLAP, or by the one score they have.

    Cosines below 0 count as 0: two results that both fit badly would otherwise make a good product.
    """
    return sorted(results, key=fit, reverse=True)[:n]


def fit(result: Result) -> tuple[float, float]:
    """Return what results are sorted by, larger for better ones; ValueError for one without scores."""
    cosines = [result.scores[name] for name in ("clip", "clap") if name in result.scores]
    if not cosines:
        raise ValueError("a result without the scores clip and clap cannot be ranked")
    return float(np.prod(np.maximum(cosines, 0))), sum(cosines)


def _described(texts: Sequence[str], tokenizer: Any, embed: Callable[[list[str]], Vectors]) -> Vectors:
    from mmray.models.chunks import chunk

    found = np.stack([embed(chunk(text, tokenizer.count, tokenizer.limit)).mean(0) for text in texts])
    unit: Vectors = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def _heard(sound: Any) -> Any:
    if sound.dtype != np.float32 or sound.ndim != 1 or not sound.size:
        raise ValueError("must be a sound: float32 of (samples,)")
    return sound


class LabelsRequest(Request):
    """A picture, or a sound at ``rate_hz``, and the labels that it could have; ``template``: with {} for a label."""

    image: Pixels | None = None
    sound: Annotated[npt.NDArray[Any], AfterValidator(_heard)] | None = None
    rate_hz: int = Field(48_000, ge=1000, le=384_000)
    labels: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1, max_length=1000)
    template: str = "{}"

    @model_validator(mode="after")
    def _one_medium(self) -> Self:
        if (self.image is None) == (self.sound is None):
            raise ValueError("give an image or a sound")
        if self.template.count("{}") != 1:
            raise ValueError("template must have one {}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels are given twice")
        return self


class FitRequest(Request):
    """What was made, and the words that its picture and its sound should fit."""

    result: InstanceOf[Result]
    seen: str
    heard: str


class _Alone(NamedTuple):
    work: int = 1


class Labels(Generator):
    """Zero-shot labels: ``scores`` are the shares of all labels, which sum to 1: a softmax over scaled cosines.

    Asked with a ``FitRequest`` it gives the cosines ``clip`` and ``clap`` instead. Nothing is drawn at random: the seed
    decides nothing.
    """

    name: ClassVar[str] = "labels"
    request: ClassVar[type[Request]] = LabelsRequest
    checkpoints: ClassVar[tuple[str, ...]] = ("model", "sound_model")

    model: str = CLIP
    sound_model: str = CLAP

    def load(self, device: str, paths: Mapping[str, str]) -> GenerateFn:
        """Load a CLIPModel and a ClapModel folder, offline."""
        judge = Judge(paths["model"], paths["sound_model"], self.precision, device)
        judge.scales, judge.seen(["a"]), judge.heard(["a"])  # a damaged folder is found now

        def make(
            _: _Alone, requests: list[LabelsRequest | FitRequest], progress: Callable[[int], None]
        ) -> list[Result]:
            progress(1)
            return [Result(scores=_scores(judge, request)) for request in requests]

        def generate(requests: Sequence[LabelsRequest | FitRequest], progress: Progress) -> list[Result | RequestError]:
            return in_batches(requests, self.batch_size, lambda _: _Alone(), make, progress)

        return generate


def _scores(judge: Judge, request: LabelsRequest | FitRequest) -> Mapping[str, float]:
    if isinstance(request, FitRequest):
        return judge.score([request.result], [request.seen], [request.heard])[0].scores
    texts = [request.template.replace("{}", label) for label in request.labels]
    if request.image is not None:
        cosines, scale = judge.seen(texts) @ judge.of_pictures([request.image])[0], judge.scales["picture"]
    else:
        assert request.sound is not None
        cosines, scale = (
            judge.heard(texts) @ judge.of_sounds([request.sound], request.rate_hz)[0],
            judge.scales["sound"],
        )
    weights = np.exp((cosines - cosines.max()) * scale)
    return dict(zip(request.labels, (weights / weights.sum()).tolist(), strict=True))
