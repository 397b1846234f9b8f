"""Classifiers of scikit-learn over one or several embeddings: alone, joined early, joined late.

Everything that is learnt, means and vocabularies too, is learnt from the train part alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC, LinearSVC

from mmray.fusion import labels
from mmray.fusion.config import Embedding
from mmray.fusion.dataset import FAR, Block

Places = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float64]
Numbers = Callable[[Places], Matrix]  # places in the data set -> rows of what a classifier reads
Splits = Sequence[tuple[Places, Places]]

# Boosting grows a tree per round and class: 100 rounds x 15 classes over 2,000 columns take minutes a fold on one core.
BOOSTED_COLUMNS = 64
# scikit-learn's leaves of at least 20 samples would leave every tree of fewer than 40 without a split: a constant.
BOOSTED = {"max_iter": 40, "learning_rate": 0.2, "max_leaf_nodes": 8, "max_bins": 63, "min_samples_leaf": 5,
           "early_stopping": False}  # fmt: skip
EPOCHS = 100  # of the MLP; it stops there on purpose, converged or not
FLOOR = 1e-6  # of a probability whose logarithm is taken
# Rows have a mean square length of 1 (see ``numbers``): with that, C = 10 suits 100 columns as well as 3,000.
STRENGTH = 10.0


def classifier(name: str, seed: int, words_only: bool = False) -> Any:
    """Return an unfitted classifier; ``words_only``: the columns are counts or tf-idf, none below zero."""
    if name == "logistic":
        return LogisticRegression(C=STRENGTH, max_iter=2000)
    if name == "linear_svc":
        return LinearSVC(C=STRENGTH / 10, random_state=seed, max_iter=5000)  # one against the rest
    if name == "rbf_svc":
        return SVC(C=STRENGTH, random_state=seed)
    if name == "mlp":
        net = MLPClassifier((128,), alpha=1e-2, max_iter=EPOCHS, random_state=seed)
        return make_pipeline(FunctionTransformer(_unit_columns), net)
    if name == "boosting":
        trees = HistGradientBoostingClassifier(**BOOSTED, random_state=seed)
        return make_pipeline(_Fewer(seed), trees)
    if name == "naive_bayes":
        return MultinomialNB(alpha=0.1) if words_only else GaussianNB(var_smoothing=1e-2)
    return DummyClassifier(strategy="most_frequent")


def _unit_columns(matrix: Matrix) -> Matrix:
    return matrix * np.float32(np.sqrt(matrix.shape[1]))


class _Fewer(FunctionTransformer):  # type: ignore[misc]
    """The first principal components where there are more columns than ``BOOSTED_COLUMNS``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def fit(self, X: Matrix, y: Any = None) -> Any:  # noqa: N803
        del y
        few = min(BOOSTED_COLUMNS, *X.shape)
        self.turn_ = PCA(few, svd_solver="randomized", random_state=self.seed).fit(X) if X.shape[1] > few else None
        return self

    def transform(self, X: Matrix) -> Matrix:  # noqa: N803
        return X if self.turn_ is None else np.asarray(self.turn_.transform(X), np.float32)


def numbers(block: Block, about: Embedding, train: Places) -> Numbers:
    """Fit an embedding's scale or vocabulary to the train part; returns what gives the rows of any places.

    Vectors: each column to mean 0 and variance 1. Then all are divided so that the mean square length of a row is 1:
    a long embedding does not drown a short one. Where a sample of the train part is absent, absent rows stand at the
    mean (texts: have no words), and one more column tells present (1) from absent (0).
    """
    seen = train[block.present[train]]
    if not len(seen):
        raise ValueError(f"{about.as_}: no sample of the train part has it")
    read = _scaled(block, seen) if block.texts is None else _words(block, about, seen)
    if block.present[train].all():
        return read
    return lambda places: np.column_stack([read(places), block.present[places]]).astype(np.float32)


def _scaled(block: Block, seen: Places) -> Numbers:
    matrix = block.matrix
    assert matrix is not None
    rows = matrix[seen].astype(np.float64)
    middle, spread = rows.mean(0), rows.std(0)
    varies = spread > 1e-9 * np.maximum(np.abs(middle), 1)
    length = np.sqrt(max(1, int(varies.sum())))
    scale = np.where(varies, 1 / (np.where(varies, spread, 1) * length), 0)

    def read(places: Places) -> Matrix:
        there = block.present[places]
        values = np.clip((matrix[places] - middle) * scale, -FAR, FAR)
        return np.where(there[:, None], values, 0).astype(np.float32)

    return read


def _words(block: Block, about: Embedding, seen: Places) -> Numbers:
    texts = block.texts
    assert texts is not None
    options = {"max_features": about.max_terms, "ngram_range": (1, about.ngrams), "dtype": np.float32}
    kind = TfidfVectorizer(sublinear_tf=True, **options) if about.extractor == "tfidf" else CountVectorizer(**options)
    lengths = kind.fit_transform([texts[place] for place in seen])
    scale = 1 / max(float(np.sqrt(lengths.power(2).sum(1).mean())), 1e-9)

    def read(places: Places) -> Matrix:
        return np.asarray(kind.transform([texts[place] or "" for place in places]).toarray() * scale, np.float32)

    return read


def early(blocks: Sequence[tuple[Block, Embedding]], train: Places) -> Numbers:
    """Join embeddings side by side, each scaled on its own."""
    readers = [numbers(block, about, train) for block, about in blocks]
    return lambda places: np.concatenate([read(places) for read in readers], axis=1)


class Model:
    """A classifier fitted to some places: ``read`` turns places into rows, ``classes`` holds a class per place.

    Resampling repeats or drops rows of the train part after the scale and the vocabulary were fitted to all of it.
    """

    def __init__(
        self,
        name: str,
        read: Numbers,
        classes: Places,
        train: Places,
        seed: int,
        resample: str,
        words: bool = False,
    ) -> None:
        drawn = train[labels.resampled(classes[train], resample, seed)]
        kind = name if len(np.unique(classes[drawn])) > 1 else "majority"  # of one class there is nothing to learn
        self._read = read
        self._fitted = classifier(kind, seed, words).fit(read(drawn), classes[drawn])

    def answers(self, places: Places) -> Places:
        """Return the class of each place."""
        return np.asarray(self._fitted.predict(self._read(places)), np.int64)

    def logits(self, places: Places, count: int) -> Logits:
        """Return float64 (places, count): log-probabilities, or distances from the boundaries where there are none.

        Classes that the train part lacks are as unlikely as can be.
        """
        rows = self._read(places)
        if hasattr(self._fitted, "predict_proba"):
            found, least = np.log(np.maximum(self._fitted.predict_proba(rows), FLOOR)), np.log(FLOOR)
        else:
            found = np.asarray(self._fitted.decision_function(rows), np.float64)
            found = np.column_stack([-found, found]) / 2 if found.ndim == 1 else found
            least = float(found.min()) - 1 if found.size else 0.0
        whole = np.full((len(places), count), least)
        whole[:, self._fitted.classes_] = found
        return whole


def temperature(logits: Logits, classes: Places) -> float:
    """Return the factor that makes ``softmax(factor * logits)`` likeliest: probabilities one can trust."""
    factors = np.geomspace(0.05, 20, 61)
    return float(factors[int(np.argmin([_loss(factor * logits, classes) for factor in factors]))])


def weights(members: Sequence[Logits], classes: Places) -> list[float]:
    """Return how much each of several log-probabilities counts, so that their weighted sum is likeliest.

    The last member are the shares of the classes: they stand in every other one already, and may count negatively.
    """
    found = [1.0] * (len(members) - 1) + [0.0]
    for _ in range(3):  # one after the other, which ends near the minimum of a convex loss
        for place, member in enumerate(members):
            grid = np.linspace(-1.5, 0.5, 21) if place == len(members) - 1 else np.linspace(0, 2, 21)
            rest = sum(w * one for n, (w, one) in enumerate(zip(found, members, strict=True)) if n != place)
            found[place] = float(grid[int(np.argmin([_loss(rest + w * member, classes) for w in grid]))])
    return found


def _loss(logits: Logits, classes: Places) -> float:
    return -float(np.take_along_axis(_log_softmax(logits), classes[:, None], 1).mean())


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def calibrated(
    block: Block, about: Embedding, name: str, classes: Places, train: Places, test: Places, inner: Splits, seed: int,
    resample: str, count: int,
) -> tuple[Logits, Logits]:  # fmt: skip
    """Return calibrated log-probabilities (places, count) of the train part, out of fold, and of the test part.

    ``inner``: splits of the train part, as places of the data set. A sample that lacks the embedding gets zeros, which
    speak for no class; so does one of an inner fold outside of which nobody has it.
    """
    found = np.zeros((len(classes), count))

    def fitted(part: Places) -> Model:
        part = part[block.present[part]]
        read = numbers(block, about, part)
        return Model(name, read, classes, part, seed, resample, about.vectoriser)

    for part, held in inner:
        there = held[block.present[held]]
        if len(there) and block.present[part].any():
            found[there] = fitted(part).logits(there, count)
    known, tested = train[block.present[train]], test[block.present[test]]
    factor = temperature(found[known], classes[known])
    if len(tested):
        found[tested] = fitted(train).logits(tested, count)
    both = np.concatenate([known, tested])
    found[both] = _log_softmax(factor * found[both])
    return found[train], found[test]


def late(
    blocks: Sequence[tuple[Block, Embedding]], names: Sequence[str], classes: Places, train: Places, test: Places,
    inner: Splits, seed: int, resample: str, count: int,
) -> Places:  # fmt: skip
    """Return the class of each test place: the likeliest by each embedding's calibrated probabilities, multiplied.

    How much an embedding counts is learnt from the train part's probabilities out of fold. Against a logistic
    regression over the same probabilities this has one number to learn where that has classes squared, and on small
    corpora was right more often (0.33 against 0.28 with 15 classes of 27 samples).
    """
    both = [
        calibrated(block, about, name, classes, train, test, inner, seed, resample, count)
        for (block, about), name in zip(blocks, names, strict=True)
    ]
    drawn = labels.resampled(classes[train], resample, seed)
    shares = np.log(np.maximum(np.bincount(classes[train][drawn], minlength=count) / len(drawn), FLOOR))
    sides = [[*logits, np.tile(shares, (len(logits[0]), 1))] for logits in zip(*both, strict=True)]
    weight = weights([member[drawn] for member in sides[0]], classes[train][drawn])
    total = sum(w * member for w, member in zip(weight, sides[1], strict=True))
    return np.asarray(np.argmax(total, axis=1), np.int64)
