"""A study's configuration: one YAML file -> frozen models, complete before anything starts."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmray.config import nearest, read_yaml, validate, with_settings

Classifier = Literal["logistic", "linear_svc", "rbf_svc", "mlp", "boosting", "naive_bayes", "majority"]
CLASSIFIERS: tuple[Classifier, ...] = (
    "logistic", "linear_svc", "rbf_svc", "mlp", "boosting", "naive_bayes", "majority",
)  # fmt: skip
Fusion = Literal["single", "early", "late"]
VECTORISERS = ("tfidf", "counts")
OF_A_VECTORISER = {"source", "max_terms", "ngrams"}
Width = Annotated[int, Field(ge=1, le=65_536)]  # of a layer


class Part(BaseModel):
    """Something a study names: frozen, every key known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Embedding(Part):
    """One matrix: a feature partition, or a vectoriser (``tfidf``, ``counts``) that each fold fits to its own texts."""

    extractor: str  # full id, or a name that one extractor of the store has; or a vectoriser
    pooling: str = "mean"
    as_: str = Field("", alias="as")
    modality: str = ""  # combinations have at most one embedding of each; default: a modality of its own
    source: str = "text"  # of a vectoriser: a column of the manifest, or EXTRACTOR.text
    max_terms: int = Field(5000, ge=1)
    ngrams: int = Field(1, ge=1, le=3)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "extractor" not in data:
            return data
        name = data.get("as", data["extractor"])
        return {**data, "as": name, "modality": data.get("modality", name)}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = self.model_fields_set
        if self.vectoriser and "pooling" in given:
            raise ValueError(f"{self.extractor} reads whole texts: it has no pooling")
        if not self.vectoriser and given & OF_A_VECTORISER:
            wrong = ", ".join(sorted(given & OF_A_VECTORISER))
            raise ValueError(f"{wrong}: only for {' and '.join(VECTORISERS)}")
        return self

    @property
    def vectoriser(self) -> bool:
        """Tell whether the matrix is made of texts, in each fold."""
        return self.extractor in VECTORISERS


class LabelSet(Part):
    """One answer to the question what a sample's class is: rules over a column, or over zero-shot scores."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # drop: [3] means the label 3

    as_: str = Field("given", alias="as")
    column: str = "label"
    scores: str | None = None  # an extractor whose features are one score per label: relabels every sample
    pooling: str = "mean"  # of the scores
    drop: tuple[str, ...] = ()  # labels left out: their samples; of scores: the next best label takes over
    margin: float = Field(0.0, ge=0, le=1)  # of scores: the best must be so much above the second
    merge: dict[str, tuple[str, ...]] = {}  # new name: the labels it takes in
    resample: Literal["none", "over", "under", "both"] = "none"  # the train part alone, to total / classes

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.scores is None and self.margin:
            raise ValueError("margin: only where `scores` names an extractor")
        taken = [label for labels in self.merge.values() for label in labels]
        if twice := [label for label in taken if taken.count(label) > 1]:
            raise ValueError(f"merge: {twice[0]!r} goes to two labels")
        return self


class Row(Part):
    """One combination asked for by name, with the figure that a document gives for it."""

    embeddings: tuple[str, ...] = Field(min_length=1)
    classifier: Classifier | tuple[Classifier, ...]  # late fusion: one, or one for each embedding
    fusion: Fusion = "single"
    labels: str = ""  # default: the first label set
    published: float | None = Field(None, ge=0, le=1)  # accuracy
    table: str = ""
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("embeddings"), str):
            return {**data, "embeddings": [data["embeddings"]]}
        return data

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.fusion == "single") != (len(self.embeddings) == 1):
            raise ValueError(f"fusion {self.fusion!r} does not fit {len(self.embeddings)} embedding(s)")
        if len(set(self.embeddings)) < len(self.embeddings):
            raise ValueError("embeddings: one stands there twice")
        if isinstance(self.classifier, tuple) and (
            self.fusion != "late" or len(self.classifier) != len(self.embeddings)
        ):
            raise ValueError("several classifiers: only for late fusion, one for each embedding")
        return self


class SplitRule(Part):
    """Who is trained on and who is tested on, and which samples take part at all.

    ``missing``: ``own`` takes samples that have every embedding asked for, ``common`` those that have every embedding
    of the run, ``mask`` all that have any.
    """

    missing: Literal["own", "common", "mask"] = "own"
    split: Literal["stratified", "group", "given"] = "stratified"
    split_column: str = "split"
    group_column: str = "group"
    folds: int = Field(5, ge=2, le=100)
    test_fraction: float | None = Field(None, gt=0, le=0.5)  # one random split of this size instead of folds
    leaks: Literal["warn", "error"] = "warn"

    @model_validator(mode="after")
    def _one_split(self) -> Self:
        if self.test_fraction is not None:
            # Of pairs each input may have a split of its own.
            if self.split == "given" and not getattr(self, "pair_on", None):
                raise ValueError(f"test_fraction: the column {self.split_column!r} says who is tested; leave one out")
            if "folds" in self.model_fields_set:
                raise ValueError("test_fraction: one split instead of folds; leave one of them out")
        return self


class StudyConfig(SplitRule):
    """What ``mmray study`` reads."""

    store: str
    out: str
    embeddings: tuple[Embedding, ...] = Field(min_length=1)
    fusions: tuple[Fusion, ...] = ("single", "early", "late")
    classifiers: tuple[Classifier, ...] = CLASSIFIERS
    labels: tuple[LabelSet, ...] = Field((LabelSet(),), min_length=1)
    rows: tuple[Row, ...] = ()
    at_most: int = Field(3, ge=2, le=8)  # embeddings in a combination
    inner_folds: int = Field(3, ge=2, le=20)  # of the train part: where late fusion's probabilities come from
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field((0,), min_length=1)
    timeout_s: float = Field(600, gt=0, le=365 * 86_400)
    cpus_per_cell: float = Field(1, gt=0, le=64)

    @field_validator("seeds", mode="before")
    @classmethod
    def _one_seed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [one.as_ for one in self.embeddings]
        sets = [one.as_ for one in self.labels]
        for key, given in (("embeddings", names), ("labels", sets), ("seeds", [str(seed) for seed in self.seeds])):
            if twice := [name for name in given if given.count(name) > 1]:
                raise ValueError(
                    f"{key}: {twice[0]!r} stands there twice; give one of them another name with `as: ...`"
                )
        for place, row in enumerate(self.rows):
            wanted = [("embeddings", name, names) for name in row.embeddings]
            for key, name, known in [*wanted, ("labels", row.labels or sets[0], sets)]:
                if name not in known:
                    raise ValueError(f"rows[{place}].{key}: there is no {name!r}{nearest(name, known)}")
        if not self.rows and not (self.fusions and self.classifiers):
            raise ValueError("nothing to do: give fusions and classifiers, or rows")
        return self


def load_study(file: str, settings: list[str] | None = None, **overrides: str | None) -> StudyConfig:
    """Read the configuration of a study; ``overrides`` (store, out) replace keys where given."""
    data = with_settings(read_yaml(file), settings or [])
    data |= {key: value for key, value in overrides.items() if value is not None}
    return validate(StudyConfig, data, "", file)
