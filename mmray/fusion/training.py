"""The configuration of ``mmray train`` and ``mmray evaluate``: fusion networks over feature partitions."""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from torch import nn

from mmray.config import nearest, read_yaml, validate, with_settings
from mmray.fusion.config import LabelSet, Part, SplitRule, Width
from mmray.fusion.encoders import EncoderSettings, Mlp
from mmray.fusion.noise import Noise

Join = Literal["single", "early", "intermediate", "gated", "attention", "late"]


class Input(Part):
    """One modality: a feature partition (``pooling``), or the single windows of an extractor (``windows``).

    ``windows``: at most that many windows of a sample, evenly chosen where it has more. ``split`` is for pairs, where
    each modality has samples of its own; default: that of the run.
    """

    extractor: str
    pooling: str = "mean"
    windows: int | None = Field(None, ge=1, le=4096)
    as_: str = Field("", alias="as")
    encoder: EncoderSettings = Mlp()
    noise: Noise | None = None
    split: Literal["stratified", "group", "given"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "extractor" not in data:
            return data
        return {**data, "as": data.get("as", data["extractor"])}

    @field_validator("as_")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[\w-]+", value) or hasattr(nn.ModuleDict, value):
            raise ValueError("is made of letters, digits, - and _, and no word of torch's; give another `as`")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.windows and "pooling" in self.model_fields_set:
            raise ValueError("pooling and windows exclude each other: one vector of a sample, or its windows")
        return self


class Schedule(Part):
    """How each network is trained: AdamW, cosine schedule with warm-up, the best epoch on the validation part kept.

    ``epoch_size``: examples of an epoch (default: each once; of pairs: one for each sample of the largest input).
    ``patience``: epochs without progress before it stops; ``label_smoothing``, ``weight_decay`` and ``clip`` (the
    largest norm of a gradient) as usual.
    """

    epochs: int = Field(20, ge=1, le=10_000)
    epoch_size: int | None = Field(None, ge=1)
    batch_size: int = Field(128, ge=2)  # of all workers together
    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip: float = Field(5.0, gt=0)
    patience: int = Field(8, ge=1)


class Network(Part):
    """A network over some of the inputs.

    ``fusion``: ``single`` (one input); ``early`` joins what the encoders give and goes on in one network;
    ``intermediate`` first brings each modality down to ``width`` in a branch of its own; ``gated`` weighs the branches
    per sample; ``attention`` lets them look at each other; ``late`` multiplies the calibrated probabilities of the
    single networks that ``start_from`` names, and trains nothing else.

    ``start_from``: single networks of this run whose encoders (late: all of them) it begins with. ``hidden``: the
    layers between branches and classes. ``modality_dropout``: how often in training a sample loses an input.
    ``schedule``: where it is trained otherwise than the others; keys that are not given are those of the run.
    """

    as_: str = Field("", alias="as")
    inputs: tuple[str, ...] = ()
    fusion: Join = "single"
    start_from: tuple[str, ...] = ()
    width: int = Field(64, ge=1, le=8192)
    hidden: tuple[Width, ...] = (64,)
    dropout: float = Field(0.1, ge=0, lt=1)
    modality_dropout: float = Field(0.2, ge=0, lt=1)
    schedule: Schedule | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        inputs = [data["inputs"]] if isinstance(data.get("inputs"), str) else data.get("inputs", ())
        name = data.get("fusion") or ("single" if len(inputs) == 1 else "")
        named = ("-".join(map(str, inputs)) or "single") if name in ("", "single") else str(name)
        return {**data, "inputs": inputs, "as": data.get("as", named)}

    @field_validator("as_")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w.+-]*", value):
            raise ValueError("names a folder: is made of letters, digits, - + . and _")
        return value


class Training(SplitRule):
    """What every kind of training reads.

    ``where``: only samples with these values in columns of the manifest. ``validation``: the share of the train part
    that says when to stop and fits the temperature, chosen by ``validation_by``: one of so many equal parts, as near as
    that comes (0.03 is one of 33).
    """

    out: str
    labels: LabelSet = LabelSet()
    where: Mapping[str, str | int | float | bool] = Field({})
    missing: Literal["own", "common", "mask"] = "mask"
    validation: float = Field(0.1, gt=0, le=0.5)
    validation_by: Literal["stratified", "group"] = "stratified"
    seed: int = Field(0, ge=0, lt=2**32)
    workers: int = Field(1, ge=1, le=256)
    gpus_per_worker: float = Field(0, ge=0)
    cpus_per_worker: float = Field(1, gt=0)
    max_failures: int = Field(3, ge=0)  # workers that may die before the run gives up


class TrainConfig(Training):
    """What ``mmray train`` and ``mmray evaluate`` read where ``kind`` is ``fusion``.

    ``pair_on``: samples of different inputs with an equal value there (``label``) are drawn as pairs, within each part
    of the split; without it the modalities of one sample belong together. ``test_size``: pairs of the test part of a
    fold.
    """

    kind: Literal["fusion"] = "fusion"
    store: str
    inputs: tuple[Input, ...] = Field(min_length=1, max_length=8)
    networks: tuple[Network, ...] = Field(min_length=1)
    pair_on: Literal["label"] | None = None
    test_size: int | None = Field(None, ge=1)
    schedule: Schedule = Schedule()

    @model_validator(mode="before")
    @classmethod
    def _schedules(cls, data: Any) -> Any:
        """Complete the schedules of networks by that of the run."""
        if not isinstance(data, dict) or not isinstance(whole := data.get("schedule", {}), dict):
            return data
        if not isinstance(given := data.get("networks"), list):
            return data
        return {**data, "networks": [_completed(one, whole) for one in given]}

    @model_validator(mode="after")
    def _names(self) -> Self:
        known = [one.as_ for one in self.inputs]
        networks = [one.as_ for one in self.networks]
        for key, names in (("inputs", known), ("networks", networks)):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(
                    f"{key}: {twice[0]!r} stands there twice; give one of them another name with `as: ...`"
                )
        for place, network in enumerate(self.networks):
            where = f"networks[{place}]"
            for name in network.inputs:
                if name not in known:
                    raise ValueError(f"{where}.inputs: there is no input {name!r}{nearest(name, known)}")
            if len(set(network.inputs)) < len(network.inputs):
                raise ValueError(f"{where}.inputs: an input stands there twice")
            self._fitting(where, network)
        if self.test_size and not self.pair_on:
            raise ValueError(
                "test_size: only for pairs (pair_on); without them every sample of the test part is tested"
            )
        if not self.pair_on and any(one.split for one in self.inputs):
            raise ValueError("inputs.split: only for pairs (pair_on); modalities of one sample are split together")
        return self

    def _fitting(self, where: str, network: Network) -> None:
        wanted = self.inputs_of(network)
        if (network.fusion == "single") != (len(wanted) == 1):
            raise ValueError(f"{where}: fusion {network.fusion!r} does not fit {len(wanted)} input(s)")
        singles = {one.as_: one for one in self.networks if one.fusion == "single"}
        for name in network.start_from:
            if name not in singles:
                raise ValueError(f"{where}.start_from: there is no single network {name!r}{nearest(name, singles)}")
        given = [self.inputs_of(singles[name])[0] for name in network.start_from]
        if network.fusion == "single" and given:
            raise ValueError(f"{where}.start_from: only for fusions")
        if len(set(given)) < len(given) or set(given) - set(wanted):
            raise ValueError(f"{where}.start_from: one single network for each of its inputs ({', '.join(wanted)})")
        if wrong := [
            name for name in network.start_from if network.fusion == "late" and not _alike(network, singles[name])
        ]:
            raise ValueError(
                f"{where}: late fusion has the branches of its singles: give it width and hidden of {wrong[0]!r}"
            )
        if network.fusion == "late" and set(given) != set(wanted):
            raise ValueError(f"{where}.start_from: late fusion needs the single network of each of {', '.join(wanted)}")

    def inputs_of(self, network: Network) -> tuple[str, ...]:
        """Return the names of the inputs of a network: its own, or all."""
        return network.inputs or tuple(one.as_ for one in self.inputs)

    def schedule_of(self, network: Network) -> Schedule:
        """Return how a network is trained: its own schedule, or that of the run."""
        return network.schedule or self.schedule

    @property
    def in_order(self) -> tuple[Network, ...]:
        """Return the networks so that each comes after those it starts from."""
        return tuple(sorted(self.networks, key=lambda network: network.fusion != "single"))


def _completed(network: Any, schedule: dict[str, Any]) -> Any:
    if not isinstance(network, dict) or not isinstance(own := network.get("schedule"), dict):
        return network
    return {**network, "schedule": {**schedule, **own}}


def _alike(one: Network, other: Network) -> bool:
    return (one.width, one.hidden) == (other.width, other.hidden)


def load_train(file: str, settings: list[str] | None = None, **overrides: str | None) -> TrainConfig:
    """Read the configuration of a training; ``overrides`` (store, out) replace keys where given."""
    data = with_settings(read_yaml(file), settings or [])
    data |= {key: value for key, value in overrides.items() if value is not None}
    return validate(TrainConfig, data, "", file)
