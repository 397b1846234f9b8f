"""How much generated pictures are like the videos of their samples: CLIP's cosines with the most different frames."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from mmray.pipelines import state
from mmray.pipelines.job import Task
from mmray.tables import ledger, windows
from mmray.tables.features import Matrix
from mmray.tables.lease import Lease
from mmray.tables.store import Store

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("frames", pa.int32()),
        ("mean", pa.float32()),
        ("most", pa.float32()),
        ("most_start_s", pa.float64()),
    ]
)


def run(store: Store, samples: pa.Table, made: Task, frames: Task, held: Lease) -> dict[str, Any]:
    """Compare each picture with the frames of its prompt's video; write STORE/likeness/ID.parquet.

    Columns: sample_id, frames (how many), the mean of the cosines, the largest (``most``) and when its frame is shown.
    Returns how many pictures were compared, and the means over them.
    """
    rows = finished(store, samples, made)
    table = windows.counted(store, rows, ["embedding"])
    pictures = dict(zip(_ids(table), windows.vectors(table["embedding"]), strict=True)) if table.num_rows else {}
    of_prompt: dict[str, list[str]] = {}
    for sample, prompt in zip(_ids(samples), samples["prompt_id"].to_pylist(), strict=True):
        if sample in pictures:
            of_prompt.setdefault(prompt, []).append(sample)
    seen = finished(store, samples, frames).filter(pl.col("sample_id").is_in(list(of_prompt)))
    found = []
    for chunk in windows.by_size(seen, 4 * made.extractor.dims(made.path)["embedding"] + 100):
        table = windows.counted(store, chunk, ["embedding"])
        owner, vectors, starts = np.array(_ids(table)), windows.vectors(table["embedding"]), table["start_s"].to_numpy()
        for prompt in dict.fromkeys(owner.tolist()):
            own = owner == prompt
            found += [_compared(one, pictures[one], vectors[own], starts[own]) for one in of_prompt[prompt]]
    result = pa.Table.from_pylist(sorted(found, key=lambda row: str(row["sample_id"])), SCHEMA)
    held.check()
    store.write(result, "likeness", f"{made.id}.parquet")
    means = {name: round(float(np.mean(result[name].to_numpy())), 4) if found else None for name in ("mean", "most")}
    return {"pictures": len(found), **means}


def finished(store: Store, samples: pa.Table, task: Task) -> pl.DataFrame:
    """Return the rows of the ledger that count for some samples and have results."""
    now = state.look(store, samples, [task])[1]
    done = ledger.done(now.rows, now.expected).select(*ledger.KEY, "input")
    return now.rows.join(done, on=[*ledger.KEY, "input"]).filter(pl.col("rows") > 0)


def _compared(sample: str, picture: Matrix, frames: Matrix, starts: Any) -> dict[str, Any]:
    cosines = frames @ picture
    most = int(cosines.argmax())
    about = {"sample_id": sample, "frames": len(cosines), "mean": float(cosines.mean())}
    return about | {"most": float(cosines[most]), "most_start_s": starts[most]}


def _ids(table: pa.Table) -> list[str]:
    found: list[str] = table["sample_id"].to_pylist()
    return found
