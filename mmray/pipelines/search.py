"""Search a store: the samples nearest to a text, a picture, a sound or another sample."""

import logging
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mmray import config, storage
from mmray.errors import ConfigError
from mmray.pipelines import index, nearest, query
from mmray.pipelines.nearest import Vectors
from mmray.pipelines.query import MEANS
from mmray.pipelines.way import Question, Way, find
from mmray.report import search as page
from mmray.tables import ledger
from mmray.tables.features import Matrix
from mmray.tables.store import Store, open_store

log = logging.getLogger(__name__)

__all__ = ["MEANS", "Question", "run"]


def run(uri: str, question: Question, html: str | None = None) -> dict[str, Any]:
    """Answer a question (the object that ``--json`` prints); ``html``: also write a page of the results there."""
    store = open_store(uri)
    manifest = store.read("manifest.parquet")
    if manifest is None:
        raise ConfigError(f"{uri}: nothing was extracted into this store yet")
    way = find(store, question)
    about = way.searched
    wanted = _chosen(manifest, question.where)
    vector = _vector(store, manifest, question, way.asked, way.asked_pooling)
    found, exact = _found(store, question, way, wanted, vector)
    if found.left_out:
        log.warning("%s: %d vector(s) are NaN, infinite or zero and were left out", about["id"], found.left_out)
    hits = _described(found.hits, manifest, about)
    if html:
        cards = [page.Card(**{name: hit[name] for name in page.Card._fields}) for hit in hits]
        storage.put(html, page.render(_asked(question, manifest, way.asked), cards, about["id"], html).encode())
    shown = ("rank", "sample_id", "score", "label", "start_s", "end_s", "uri", "text")
    return {
        "results": [{name: hit[name] for name in shown if hit[name] is not None} for hit in hits],
        "query": {question.means: question.value},
        "extractor": about["id"],
        "pooling": None if question.by_window else way.pooling,
        "map": question.through,
        "asked": way.asked["id"],
        "compared": found.compared,
        "left_out": found.left_out,
        "exact": exact,
        "html": html,
    }


def _found(
    store: Store, question: Question, way: Way, wanted: pa.Array | None, vector: Matrix
) -> tuple[nearest.Found, bool]:
    """Return what is nearest to a vector, and whether it was compared with all."""
    itself = question.value if question.means == "sample" else None
    extractor = way.searched["id"]
    if way.put_query is not None and way.put_found is not None:
        put = way.put_found
        found = nearest.pooled(store, extractor, way.pooling, wanted)
        placed = (Vectors(keys, put(matrix)) for keys, matrix in found)
        return nearest.nearest(placed, way.put_query(vector[None])[0], question.k, itself), True
    if question.by_window:
        return nearest.nearest(nearest.windowed(store, extractor, wanted), vector, question.k, itself), True
    if wanted is None and index.wanted(store, extractor, way.pooling):
        return index.search(store, extractor, way.pooling, vector, question.k, itself), False
    return nearest.nearest(nearest.pooled(store, extractor, way.pooling, wanted), vector, question.k, itself), True


def _chosen(manifest: pa.Table, where: Sequence[str]) -> pa.Array | None:
    """Return the ids of the samples that meet the conditions, None without any; values are compared as text."""
    if not where:
        return None
    values: dict[str, list[str]] = {}
    for condition in where:
        column, equals, value = condition.partition("=")
        if not equals:
            raise ConfigError(f"--where {condition}: write it as column=value, for example label=dog")
        if column not in manifest.column_names:
            raise ConfigError(f"--where {condition}: no such column{config.nearest(column, manifest.column_names)}")
        values.setdefault(column, []).append(value)
    chosen = manifest
    for column, wanted in values.items():
        texts = _texts(manifest, column)
        for value in wanted:
            if not pc.any(pc.equal(texts, value)).as_py():
                near = config.nearest(value, pc.unique(texts.drop_null()).to_pylist())
                raise ConfigError(f"--where {column}={value}: no sample of the manifest has that{near}")
        chosen = chosen.filter(pc.is_in(_texts(chosen, column), pa.array(wanted)))
    if chosen.num_rows == 0:
        raise ConfigError(f"--where {' --where '.join(where)}: no sample of the manifest meets all of these")
    return chosen["sample_id"].combine_chunks()


def _texts(table: pa.Table, column: str) -> pa.ChunkedArray:
    try:
        return table[column].cast(pa.string())
    except pa.ArrowException:
        raise ConfigError(f"--where {column}: its values ({table[column].type}) have no text to compare") from None


def _vector(store: Store, manifest: pa.Table, question: Question, about: dict[str, Any], pooling: str) -> Matrix:
    """Return the vector to look for: a query embedded, or the pooled vector of a sample."""
    if question.means != "sample":
        return query.embedded(about, question.means, question.value, pooling)
    own = pa.array([question.value])
    for _, matrix in nearest.pooled(store, about["id"], pooling, own):
        if not nearest.usable(matrix)[0]:
            raise ConfigError(f"--sample {question.value}: its vector in {about['id']} is NaN, infinite or zero")
        vector: Matrix = matrix[0]
        return vector
    if not pc.any(pc.equal(manifest["sample_id"], question.value)).as_py():
        near = config.nearest(question.value, manifest["sample_id"].to_pylist())
        raise ConfigError(f"--sample {question.value}: the store has no such sample{near}")
    rows = ledger.read(store).filter(pl.col("sample_id") == question.value, pl.col("extractor") == about["id"])
    words = {
        f"{status}: {reason}: {detail}" for status, reason, detail in rows.select("status", "reason", "detail").rows()
    }
    otherwise = "pending" if about["source"] else "it was not imported"
    raise ConfigError(
        f"--sample {question.value}: has no vector in {about['id']} ({'; '.join(sorted(words)) or otherwise})"
    )


def _described(hits: pl.DataFrame, manifest: pa.Table, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the hits with what the manifest says of them, and where in the medium each stands."""
    ids = pa.array(hits["sample_id"].to_list(), pa.string())
    rows = manifest.filter(pc.is_in(manifest["sample_id"], ids)).to_pylist()
    known = {row["sample_id"]: row for row in rows}
    return [
        {"rank": rank, **hit, **_said(known.get(hit["sample_id"], {}), about, hit["start_s"], hit["end_s"])}
        for rank, hit in enumerate(hits.iter_rows(named=True), 1)
    ]


def _said(row: dict[str, Any], about: dict[str, Any], start_s: float | None, end_s: float | None) -> dict[str, Any]:
    """Return label, uri and text of a sample, and the part of its medium to show: a window's, else the sample's."""
    media, texts = ("uri", about["source"]) if about["reads_text"] else (about["source"] or "uri", "text")
    offset_s, limit_s = row.get("start_s") or 0.0, row.get("end_s")
    windowed = start_s is not None and end_s is not None
    return {
        "label": row.get("label"),
        "uri": row.get(media),
        "text": row.get(texts),
        "from_s": offset_s + (start_s or 0.0),
        "to_s": offset_s + (end_s or 0.0) if windowed else limit_s,
    }


def _asked(question: Question, manifest: pa.Table, about: dict[str, Any]) -> page.Card:
    """Return the query as a card of the page."""
    if question.means == "sample":
        hit = pl.DataFrame([(question.value, 1.0, None, None)], nearest.HITS, orient="row")
        (one,) = _described(hit, manifest, about)
        return page.Card(**{name: one[name] for name in page.Card._fields})
    text = question.means == "text"
    return page.Card(
        rank=0,
        sample_id="" if text else question.value,
        score=1.0,
        label=None,
        uri=None if text else storage.absolute(question.value),
        text=question.value if text else None,
        start_s=None,
        end_s=None,
        from_s=0.0,
        to_s=None,
    )
