"""Where a query becomes a vector, and among which it is looked for: one partition, or the two sides of a map."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mmray import config, storage
from mmray.errors import ConfigError
from mmray.pipelines import query
from mmray.pipelines.query import Means
from mmray.tables import features
from mmray.tables.features import Matrix
from mmray.tables.store import Store

if TYPE_CHECKING:  # torch is loaded for a map alone
    from mmray.pipelines.through_map import Bridge, Side

log = logging.getLogger(__name__)

Put = Callable[[Matrix], Matrix]


class Question(NamedTuple):
    """What is asked of a store.

    ``value``: the text, the file or the sample_id. ``partition``: an extractor's id or name, None for the only one that
    such a query reaches. ``by_window``: compare with single windows, not with whole samples. ``where``: conditions
    ``column=value`` on the manifest; of one column any, of several columns all. ``through``: the folder of a map
    between two partitions; the query belongs to one of them, and the other is searched.
    """

    means: Means
    value: str
    k: int = 10
    partition: str | None = None
    pooling: str | None = None
    by_window: bool = False
    where: Sequence[str] = ()
    through: str | None = None


class Way(NamedTuple):
    """``asked``, ``searched``: provenance of the partition of the query and of that it is compared with.

    ``put_query``, ``put_found``: bring vectors (n, dim) of the two into one space; None where they are one partition.
    """

    asked: dict[str, Any]
    asked_pooling: str
    searched: dict[str, Any]
    pooling: str
    put_query: Put | None = None
    put_found: Put | None = None


def find(store: Store, question: Question) -> Way:
    """Return the partition that a query belongs to and the one that is searched; with a map these are its two sides.

    ConfigError where a query reaches none, or several and none is named, or a pooling is not there.
    """
    files = storage.files(store.path("provenance"), ".json")
    known = [store.read_json("provenance", entry.uri.rpartition("/")[2]) or {} for entry in files]
    if question.through is not None:
        return _mapped(store, question, question.through, known)
    if question.by_window and question.pooling:
        raise ConfigError("--pooling: --windows compares with single windows, which are not pooled; leave one out")
    about, pooling = _partition(store, question, known), question.pooling or "mean"
    if question.means == "sample" or not question.by_window:
        _check_pooling(store, about["id"], pooling)
    return Way(about, pooling, about, pooling)


def _mapped(store: Store, question: Question, folder: str, known: Sequence[dict[str, Any]]) -> Way:
    from mmray.pipelines import through_map

    bridge = through_map.opened(store, folder, known)
    side = _side(store, question, bridge)
    other = bridge.beyond(side)
    if question.by_window:
        raise ConfigError(f"--windows: the map {bridge.folder} was fitted on whole samples; leave it out")
    if question.pooling not in (None, other.pooling):
        raise ConfigError(f"--pooling {question.pooling}: the map {bridge.folder} was fitted on {other.words}")
    for one in (side, other) if question.means == "sample" else (other,):
        _check_pooling(store, one.about["id"], one.pooling)
    log.info("asking %s, searching %s", side.words, other.words)
    return Way(side.about, side.pooling, other.about, other.pooling, bridge.put(side), bridge.put(other))


def _side(store: Store, question: Question, bridge: "Bridge") -> "Side":
    """Return the side of a map that a query belongs to: the one it reaches; --in names the other, which is searched.

    A sample may be asked from either side, and is from the source side.
    """
    sides, asked = [bridge.source, bridge.target], f"--map {bridge.folder}: --{question.means}"
    if question.partition is not None:
        number = features.extractor_id(store, question.partition)
        searched = [side for side in sides if side.about["id"] == number]
        if not searched:
            listed = " and ".join(side.words for side in sides)
            raise ConfigError(f"--in {question.partition}: the map {bridge.folder} joins {listed}")
        sides = [bridge.beyond(side) for side in searched]
    for side in sides:
        if question.means == "sample" or _reaches(side.about, question.means):
            return side
    if len(sides) == 1:
        raise ConfigError(f"{asked} does not reach {sides[0].words}, the side that --in {question.partition} leaves")
    raise ConfigError(f"{asked} reaches neither {sides[0].words} nor {sides[1].words}")


def _partition(store: Store, question: Question, known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the provenance of the partition to search: the one that is named, else the only one the query reaches."""
    reached = [about for about in known if _reaches(about, question.means)]
    listed = ", ".join(f"{about['as']} ({about['id']})" for about in reached)
    asked = f"--{question.means}"
    if question.partition is not None:
        number = features.extractor_id(store, question.partition)
        about = next(about for about in known if about["id"] == number)
        if about not in reached:
            raise ConfigError(
                f"--in {question.partition}: {asked} does not reach {number}, which holds {about['kind']}"
                f"{query.unread(about)}; it reaches {listed or 'nothing in this store'}"
            )
        return about
    if not reached:
        there = ", ".join(about["id"] + query.unread(about) for about in known) or "nothing"
        raise ConfigError(f"{store.uri}: {asked} reaches no extractor of this store (it has {there})")
    if len(reached) > 1:
        raise ConfigError(f"{store.uri}: {asked} reaches several extractors: {listed}; choose one with --in")
    log.info("searching %s", reached[0]["id"])
    return reached[0]


def _reaches(about: dict[str, Any], means: Means) -> bool:
    return about["kind"] in query.SPACES if means == "sample" else query.reader(about, means) is not None


def _check_pooling(store: Store, extractor: str, pooling: str) -> None:
    if not storage.exists(features.path(store, extractor, pooling)):
        folder = store.path("features", f"extractor={extractor}")
        uris = [storage.parent(entry.uri) for entry in storage.files(folder, ".parquet")]
        there = sorted({uri.rpartition("pooling=")[2] for uri in uris})
        detail = config.nearest(pooling, there) if there else " (no sample of it is finished)"
        raise ConfigError(f"{store.uri}: {extractor} has no --pooling {pooling}{detail}")
