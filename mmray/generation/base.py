"""The contract of a generator.

A generator is a frozen configuration, light enough for a driver; ``load`` returns the heavy part, in the worker: a
function from requests to results. One seed gives one result, whatever else is in the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

# Is told (steps done, steps in all) after every step; what it raises ends the work.
Progress = Callable[[int, int], None]
# Requests go in; for each its Result comes out, or its RequestError where it cannot be done, in order. The others are
# done all the same. One call at a time.
GenerateFn = Callable[[Sequence[Any], Progress], list[Any]]
Precision = Literal["float32", "bfloat16", "float16"]


class RequestError(ValueError):
    """One request cannot be done as it is: ``field`` of it is at fault, ``message`` says why and what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Request(BaseModel):
    """What one result is made of; the seed decides all that is drawn at random."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    seed: int = Field(0, ge=0, lt=2**32)


@dataclass(frozen=True)
class Result:
    """What was made; any of its parts may be absent.

    ``picture`` uint8 (height, width, 3); ``sound`` float32 (samples,) in [-1, 1] at ``rate_hz``; ``spectrum``, the
    spectrogram the sound was made of, uint8 (height, width), low pitches at the bottom; ``text``; ``scores`` by name
    (``clip``, ``clap``: cosines of the result with its prompt).
    """

    picture: npt.NDArray[np.uint8] | None = None
    sound: npt.NDArray[np.float32] | None = None
    rate_hz: int = 0
    spectrum: npt.NDArray[np.uint8] | None = None
    text: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


class Generator(BaseModel):
    """One way to make results; a field is a key of the configuration.

    ``checkpoints``: the fields that name folders or hub ids, the main one first; ``load`` gets the path of each.
    ``version`` is raised whenever the code changes what a seed gives. ``extra``: that which it needs (`pip install
    mmray[EXTRA]`), and a module that tells whether it is installed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[int] = 1
    request: ClassVar[type[Request]]
    checkpoints: ClassVar[tuple[str, ...]] = ("model",)
    extra: ClassVar[tuple[str, str] | None] = None

    model: str
    precision: Precision = "float32"
    batch_size: int = Field(4, ge=1, le=256)

    def load(self, device: str, paths: Mapping[str, str]) -> GenerateFn:
        """Load the checkpoints and return the function, on ``device`` (cpu, cuda:0).

        ConfigError, naming file and tensor, where a checkpoint is damaged or of another kind.
        """
        raise NotImplementedError
