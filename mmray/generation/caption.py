"""Captions: what is on a picture, in a sentence.

Source: Li et al. 2022, BLIP, through transformers. Weights: Salesforce/blip-image-captioning-base (BSD-3-Clause) unless
another is named.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from mmray.generation.base import GenerateFn, Generator, Progress, Request, RequestError, Result
from mmray.generation.batches import in_batches
from mmray.generation.image import Pixels

# Tables that the class makes itself; conversions of checkpoints drop them.
TABLES = ("text_decoder.bert.embeddings.position_ids",)


class CaptionRequest(Request):
    """``prompt``: how the caption begins; the result goes on from there and does not repeat it."""

    image: Pixels
    prompt: str = ""


class _Plan(NamedTuple):
    """What the captions of one batch have in common: prompts of so many tokens, and so need no padding."""

    work: int
    tokens: int


class Caption(Generator):
    """The most likely caption of at most ``max_tokens`` tokens, found by so many ``beams`` (1: greedily).

    Nothing is drawn at random: the seed decides nothing. Pictures of any size are scaled as the folder's own processor
    says.
    """

    name: ClassVar[str] = "caption"
    request: ClassVar[type[Request]] = CaptionRequest

    model: str = "Salesforce/blip-image-captioning-base"
    max_tokens: int = Field(30, ge=1, le=200)
    beams: int = Field(1, ge=1, le=16)

    def load(self, device: str, paths: Mapping[str, str]) -> GenerateFn:
        """Load a BlipForConditionalGeneration folder, offline."""
        captions = _Captions(self, device, paths["model"])

        def generate(requests: Sequence[CaptionRequest], progress: Progress) -> list[Result | RequestError]:
            return in_batches(requests, self.batch_size, captions.plan, captions.make, progress)

        return generate


class _Captions:
    """The loaded network, its words and its eyes."""

    def __init__(self, settings: Caption, device: str, path: str) -> None:
        from mmray.models import hub
        from mmray.models.tokenizer import Tokenizer

        hub.config(path, "blip")
        hub.image_settings(path)
        self._model: Any = hub.load("BlipForConditionalGeneration", path, settings.precision, device, unread=TABLES)
        self._tokenizer = Tokenizer(path, self._model.config.text_config, device)
        from transformers import BlipImageProcessorPil

        self._eyes: Any = BlipImageProcessorPil.from_pretrained(path, local_files_only=True)
        self._settings = settings

    def plan(self, request: CaptionRequest) -> _Plan:
        """RequestError where the prompt leaves no room for a caption."""
        tokens = self._tokenizer.count(request.prompt)
        room = self._tokenizer.limit - self._settings.max_tokens
        if tokens > room:
            raise RequestError("prompt", f"has {tokens} tokens, and {room} leave room for a caption")
        return _Plan(self._settings.max_tokens, tokens)

    def make(self, plan: _Plan, requests: list[CaptionRequest], progress: Callable[[int], None]) -> list[Result]:
        """Write the captions of one batch."""
        import torch

        written = count(1)

        def after_token(ids: Any, _scores: Any, **_: Any) -> Any:
            progress(min(next(written), plan.work))
            return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)  # not yet done

        words = self._tokenizer([request.prompt for request in requests])
        pixels = self._eyes([request.image for request in requests], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            found = self._model.generate(
                pixel_values=pixels.to(self._model.device, self._model.dtype),
                input_ids=words["input_ids"],
                attention_mask=words["attention_mask"],
                max_new_tokens=plan.work,
                num_beams=self._settings.beams,
                do_sample=False,
                stopping_criteria=[after_token],
            )
        progress(plan.work)  # captions that end early
        said = found[:, plan.tokens - 1 :]  # behind the start and the prompt; the end of the prompt was cut off
        texts = self._tokenizer.library.batch_decode(said, skip_special_tokens=True)
        return [Result(text=text.strip()) for text in texts]
