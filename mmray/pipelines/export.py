"""One matrix with ids and labels, as a file other tools read."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mmray import storage
from mmray.errors import ConfigError
from mmray.tables import features
from mmray.tables.store import write_parquet


def export(store: str, extractor: str, pooling: str, output: str) -> dict[str, Any]:
    """Write a feature table with labels: ``.npz`` (ids, matrix, labels), ``.csv`` (a column a number), ``.parquet``."""
    if not output.lower().endswith((".npz", ".csv", ".parquet")):
        raise ConfigError(f"-o {output}: give a name that ends with .npz, .csv or .parquet")
    found = features.load(store, extractor, pooling)
    kind = output.lower().rpartition(".")[2]
    buffer = io.BytesIO()
    if kind == "npz":
        labels = np.array([label or "" for label in found.labels], dtype=np.str_)
        np.savez_compressed(buffer, ids=np.array(found.ids, dtype=np.str_), matrix=found.matrix, labels=labels)
    else:
        columns: dict[str, Any] = {"sample_id": pa.array(found.ids), "label": pa.array(found.labels, pa.string())}
        if kind == "csv":
            columns |= {f"e{place}": pa.array(found.matrix[:, place]) for place in range(found.matrix.shape[1])}
            pyarrow.csv.write_csv(pa.table(columns), buffer)
        else:
            vectors = features.table(found.ids, found.matrix, "")["embedding"]
            write_parquet(pa.table(columns | {"embedding": vectors}), output)
    if kind != "parquet":
        storage.put(output, buffer.getvalue())
    return {"output": output, "samples": len(found.ids), "dim": int(found.matrix.shape[1]), "pooling": pooling}
