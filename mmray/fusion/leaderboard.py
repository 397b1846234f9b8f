"""What came of a study: one row per combination over its seeds, best first, beside the figures a document gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from mmray.fusion import metrics
from mmray.fusion.cells import Cell, named
from mmray.fusion.config import StudyConfig

Record = dict[str, Any]
COLUMNS = {
    "rank": pl.Int64, "status": pl.String, "embeddings": pl.String, "fusion": pl.String, "classifier": pl.String,
    "labels": pl.String, "seeds": pl.Int64, "samples": pl.Int64, "tested": pl.Int64, "classes": pl.Int64,
    "accuracy": pl.Float64, "accuracy_low": pl.Float64, "accuracy_high": pl.Float64, "accuracy_sd": pl.Float64,
    "macro_f1": pl.Float64, "macro_f1_low": pl.Float64, "macro_f1_high": pl.Float64, "balanced_accuracy": pl.Float64,
    "seconds": pl.Float64, "table": pl.String, "published": pl.Float64, "detail": pl.String,
}  # fmt: skip


def build(config: StudyConfig, results: Mapping[Cell, Record]) -> tuple[list[Record], list[Any]]:
    """Return the rows, by accuracy, and the confusion matrix of each (summed over the seeds; None where none is done).

    The intervals are those of one seed's samples: more seeds make the mean surer, not the corpus larger. A row with
    ``published`` stands once for every row of the configuration that names the combination.
    """
    combinations: dict[tuple[str, ...], list[tuple[Cell, Record]]] = {}
    for cell, record in results.items():
        combinations.setdefault(tuple(cell.about.values()), []).append((cell, record))
    rows = []
    for found in combinations.values():
        row, confusion = _row(found)
        asked = [one for one in config.rows if named(one, config, found[0][0].seed) == found[0][0]]
        for table, published, note in [(one.table, one.published, one.note) for one in asked] or [("", None, "")]:
            detail = "; ".join(filter(None, [note, row["detail"]]))
            rows.append((row | {"table": table, "published": published, "detail": detail}, confusion))
    rows.sort(key=lambda one: (one[0]["accuracy"] is None, -(one[0]["accuracy"] or 0), *map(str, one[0].values())))
    ranked = [{"rank": place, **row} for place, (row, _) in enumerate(rows, 1)]
    return [{name: row.get(name) for name in COLUMNS} for row in ranked], [confusion for _, confusion in rows]


def _row(found: Sequence[tuple[Cell, Record]]) -> tuple[Record, Any]:
    done = [record for _, record in found if record["status"] == "done"]
    wrong = [record for _, record in found if record["status"] != "done"]
    about = found[0][0].about | {"seeds": len(done), "status": wrong[0]["status"] if wrong else "done"}
    notes = dict.fromkeys([str(one["detail"]) for one in wrong] + [note for one in done for note in one["notes"]])
    about |= {"detail": "; ".join(notes), "seconds": round(sum(one.get("seconds") or 0 for _, one in found), 3)}
    if not done:
        return about | dict.fromkeys([*_figures(np.eye(2)), "accuracy_sd", "samples", "tested", "classes"]), None
    names = sorted({name for one in done for name in one["classes"]})
    total = np.zeros((len(names), len(names)))
    for one in done:
        places = [names.index(name) for name in one["classes"]]
        total[np.ix_(places, places)] += np.array(one["confusion"], float)
    spread = float(np.std([one["accuracy"] for one in done])) if len(done) > 1 else None
    about |= _figures(total / len(done)) | {"accuracy_sd": spread, "classes": len(names)}
    sizes = {"samples": max(one["samples"] for one in done), "tested": round(total.sum() / len(done))}
    return about | sizes, {
        "classes": names,
        "counts": total.astype(int).tolist(),
    }


def _figures(confusion: Any) -> dict[str, float]:
    return metrics.figures(np.asarray(confusion, float))


def frame(rows: Sequence[Record]) -> pl.DataFrame:
    """Return the leaderboard as a table."""
    return pl.DataFrame(list(rows), schema=COLUMNS)
