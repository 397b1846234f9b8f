"""The configuration of ``mmray train`` and ``mmray evaluate`` where ``kind`` is ``text``: classifiers of texts."""

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmray.config import nearest, read_yaml, validate, with_settings
from mmray.fusion.config import Part
from mmray.fusion.training import Training


class TextInput(Part):
    """One text of each sample: a column of the manifest, or what an extractor wrote (``whisper.text``).

    A word alone stands for its ``source``.
    """

    source: str = Field(min_length=1)
    as_: str = Field("", alias="as")
    split: ClassVar[None] = None  # the texts of one sample are split together

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        data = {"source": data} if isinstance(data, str) else data
        return {**data, "as": data.get("as", data["source"])} if isinstance(data, dict) and "source" in data else data


class TextNetwork(Part):
    """A classifier of some of the inputs (default: all), joined in this order by the tokenizer's separator.

    ``model``: the pretrained encoder, a folder of BERT's family or a name of the hub; its head is new. A sample longer
    than ``tokens`` (default: what the model reads) is read in chunks, at most ``chunks`` of them, evenly chosen where
    it has more; its logits are their mean.
    """

    as_: str = Field("", alias="as")
    inputs: tuple[str, ...] = ()
    model: str = "distilbert/distilbert-base-uncased"
    tokens: int | None = Field(None, ge=8)
    chunks: int = Field(8, ge=1, le=1024)

    @field_validator("as_")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w.+-]*", value):
            raise ValueError("names a folder: is made of letters, digits, - + . and _")
        return value


class TextSchedule(Part):
    """How each network is tuned: AdamW, warm-up, then down to zero; the epoch with the least validation loss is kept.

    ``batch_size``: chunks, of all workers together. ``weight_decay``: of matrices, not of biases and norms.
    ``patience``: epochs without progress before it stops; ``clip``: the largest norm of a gradient.
    """

    epochs: int = Field(4, ge=1, le=1000)
    batch_size: int = Field(32, ge=1, le=65_536)
    learning_rate: float = Field(5e-5, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    decay: Literal["linear", "cosine"] = "linear"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    patience: int = Field(2, ge=1)


class TextConfig(Training):
    """What ``mmray train`` and ``mmray evaluate`` read where ``kind`` is ``text``.

    Texts come from a ``store``, or straight from a ``manifest`` (Parquet, CSV, TSV, JSONL) where no extractor wrote
    any. Default ``networks``: one over all inputs.
    """

    kind: Literal["text"] = "text"
    store: str | None = None
    manifest: str | None = None
    inputs: tuple[TextInput, ...] = Field(min_length=1, max_length=8)
    networks: tuple[TextNetwork, ...] = Field(min_length=1)
    schedule: TextSchedule = TextSchedule()
    pair_on: ClassVar[None] = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        """Name each network after its inputs."""
        if not isinstance(data, dict) or not isinstance(data.get("inputs"), list | tuple):
            return data
        every = [one.get("as", one.get("source")) if isinstance(one, dict) else one for one in data["inputs"]]
        networks = data.get("networks", [{}])
        if not isinstance(networks, list | tuple) or not all(isinstance(one, dict) for one in networks):
            return data
        return {**data, "networks": [_named(one, every) for one in networks]}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.store is None) == (self.manifest is None):
            raise ValueError("give either `store` (what `mmray extract` made) or `manifest` (a table of texts)")
        known = [one.as_ for one in self.inputs]
        for key, names in (("inputs", known), ("networks", [one.as_ for one in self.networks])):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(
                    f"{key}: {twice[0]!r} stands there twice; give one of them another name with `as: ...`"
                )
        for place, network in enumerate(self.networks):
            where = f"networks[{place}].inputs"
            for name in network.inputs:
                if name not in known:
                    raise ValueError(f"{where}: there is no input {name!r}{nearest(name, known)}")
            if len(set(network.inputs)) < len(network.inputs):
                raise ValueError(f"{where}: an input stands there twice")
        if self.store is None and self.labels.scores is not None:
            raise ValueError("labels.scores: names an extractor of a store; give `store` instead of `manifest`")
        return self

    def inputs_of(self, network: TextNetwork) -> tuple[str, ...]:
        """Return the names of the inputs of a network: its own, or all."""
        return network.inputs or tuple(one.as_ for one in self.inputs)


def _named(network: dict[str, Any], every: list[Any]) -> dict[str, Any]:
    """Give a network that has none a name: its inputs'."""
    inputs = network.get("inputs") or every
    inputs = [inputs] if isinstance(inputs, str) else inputs
    return {"as": "-".join(map(str, inputs)), **network, "inputs": inputs}


def load_text(file: str, settings: list[str] | None = None, **overrides: str | None) -> TextConfig:
    """Read the configuration of a text training; ``overrides`` (store, out) replace keys where given."""
    data = with_settings(read_yaml(file), settings or [])
    data |= {key: value for key, value in overrides.items() if value is not None}
    return validate(TextConfig, data, "", file)
