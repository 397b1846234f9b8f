"""The contract of an extractor.

An extractor is a frozen configuration, light enough for the driver; ``load(device)`` returns the heavy part, in the
worker: a function from decoded stream items to rows.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from mmray.errors import SampleError
from mmray.specs import AnySpec, FrameSpec, Rows, Spec

# Items go in; for each, in order, its Rows, or the SampleError that belongs to that item alone.
ExtractFn = Callable[[Sequence[Any]], Iterator[Rows | SampleError]]
Pooling = Literal["mean", "max", "mean+max", "first", "scores_mean", "scores_max", "count", "summary"]
Precision = Literal["float32", "bfloat16", "float16"]


class Kind(StrEnum):
    """What a windows table holds; decides its columns."""

    EMBEDDING = "embedding"
    TOKENS = "tokens"
    TAGS = "tags"
    SCORES = "scores"
    TEXT = "text"
    DETECTIONS = "detections"
    DESCRIPTORS = "descriptors"
    GENERATED = "generated"


class Extractor(BaseModel):
    """One way to turn streams into rows.

    Fields that are stream specs are its inputs; their keys stand flat in a configuration entry. ``kind``, ``dim``
    (of the embedding) and ``labels`` (of scores or classes) say what the rows hold. ``gather``: the function takes
    one ``Gathered`` per segment (all its items) instead of single items. ``version`` is raised whenever the code
    changes the numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    kind: ClassVar[Kind] = Kind.EMBEDDING
    version: ClassVar[int] = 1
    gather: ClassVar[bool] = False
    poolings: ClassVar[tuple[Pooling, ...]] = ("mean", "max", "mean+max", "first")
    # How and where it runs, never what it computes: left out of the identity.
    execution: ClassVar[frozenset[str]] = frozenset({"batch_size", "pooling", "weights", "model"})
    # Of a descriptors table: its columns, and how each is pooled over a sample (features.summarised says how).
    summary: ClassVar[dict[str, Literal["sum", "mean", "max", "energy"]]] = {}
    # Items (pictures, windows, texts) a CPU core does in a second, roughly: what `mmray plan` predicts with.
    cpu_items_per_s: ClassVar[float] = 50.0
    # An item takes so long that a call of an actor, which is what a lost actor loses, is just one batch.
    slow: ClassVar[bool] = False
    # The field that names the checkpoint ("weights" for a file, "model" for a folder), if there is one.
    checkpoint: ClassVar[Literal["weights", "model"] | None] = None
    # Fields that name further checkpoints (None: not wanted), with the suffixes read beside those any extractor may be
    # given; `load` finds them with `weights.resolve`.
    companions: ClassVar[dict[str, frozenset[str]]] = {}
    # Suffixes of checkpoint files that it reads beside those any extractor may be given (weights.FILES).
    formats: ClassVar[frozenset[str]] = frozenset()
    # The extra (`pip install mmray[EXTRA]`) it needs, and a module that tells whether that is installed.
    extra: ClassVar[tuple[str, str] | None] = None

    source: str = "uri"
    batch_size: int = Field(16, ge=1, le=4096)
    pooling: tuple[Pooling, ...] = ("mean",)

    @property
    def specs(self) -> tuple[AnySpec, ...]:
        """Return the stream specs, in the order of their fields."""
        fields = (getattr(self, name) for name in type(self).model_fields)
        return tuple(value for value in fields if isinstance(value, Spec))  # type: ignore[misc]

    @property
    def whole_sample(self) -> bool:
        """Tell whether it needs a sample as one segment (scope ``sample``)."""
        return any(isinstance(spec, FrameSpec) and spec.whole_sample for spec in self.specs)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Return the fields that name the checkpoints it wants, the main one first."""
        fields = (self.checkpoint, *self.companions) if self.checkpoint else ()
        return tuple(field for field in fields if getattr(self, field) is not None)

    def formats_of(self, field: str) -> frozenset[str]:
        """Return the suffixes that the checkpoint of a field may have beside those any extractor may be given."""
        return self.formats if field == self.checkpoint else self.companions[field]

    @property
    def half(self) -> bool:
        """Tell whether vectors are kept as float16."""
        return False

    def resolved(self, path: str) -> Self:
        """Return a copy with what the checkpoint at ``path`` decides (an input size, say) filled in.

        ConfigError where it is another kind of checkpoint: the first and cheapest look at it, on the driver.
        """
        del path
        return self

    def dims(self, path: str | None) -> dict[str, int]:
        """Return the lengths of the vector columns (``embedding``, ``scores``), read from the checkpoint if need be.

        Nothing where a row has no vector (texts, detections, named columns).
        """
        del path
        return {}

    def labels(self, path: str | None) -> tuple[str, ...]:
        """Return the names of the scores or classes, for provenance; empty where there are none."""
        del path
        return ()

    def load(self, device: str, path: str | None) -> ExtractFn:
        """Load the checkpoint at ``path`` (None: no weights) and return the function, on ``device`` (cpu, cuda:0).

        ConfigError, naming file and tensor, where the checkpoint is damaged or another architecture's.
        """
        raise NotImplementedError
