"""``mmray report``: one HTML file of a store, a study or a training, that asks no network."""

import json
import time
from collections.abc import Callable
from typing import Any

from mmray import storage
from mmray.errors import ConfigError
from mmray.pipelines import projection, report_store, report_study
from mmray.pipelines.projection import Projection
from mmray.report import crossmodal as crossmodal_page
from mmray.report import store as store_page
from mmray.report import study as study_page
from mmray.tables.store import Store, open_store

# The HTML of a folder; how many samples, maps of embeddings and thumbnails it shows, and what was left out.
Made = tuple[str, dict[str, Any]]


def run(uri: str, output: str, kind: Projection = "pca") -> dict[str, Any]:
    """Write the report of the folder ``uri`` to ``output`` (the object that ``--json`` prints)."""
    began = time.monotonic()
    projection.check(kind)
    folder = uri.rstrip("/") or "/"
    of, make = _maker(folder)
    html, about = make(folder, output, kind)
    data = html.encode("utf-8", "replace")
    storage.put(output, data)
    seconds = round(time.monotonic() - began, 3)
    return {"report": output, "of": of, "size_bytes": len(data), **about, "seconds": seconds}


def _maker(folder: str) -> tuple[str, Callable[[str, str, Projection], Made]]:
    for file, (of, make) in KINDS.items():
        if storage.exists(storage.join(folder, file)):
            return of, make
    known = "; ".join(f"{file} of a {of}" for file, (of, _) in KINDS.items())
    raise ConfigError(f"{folder}: is nothing that can be reported: it has none of {known}")


def _of_store(folder: str, output: str, kind: Projection) -> Made:
    about = report_store.gathered(open_store(folder), output, kind)
    shown = sum(one.picture is not None for one in about.trouble)
    return store_page.render(about), {
        "samples": about.account["samples"], "maps": len(about.maps), "thumbnails": shown, "notes": list(about.notes),
    }  # fmt: skip


def _of_study(folder: str, output: str, kind: Projection) -> Made:
    about = report_study.gathered(Store(folder), output, kind)
    shown = sum(one.picture is not None for own in about.worst.values() for one in own)
    return study_page.report(about), {
        "samples": max(about.tested.values(), default=0), "maps": len(about.maps), "thumbnails": shown,
        "notes": list(about.account["notes"]),
    }  # fmt: skip


def _of_crossmodal(folder: str, output: str, kind: Projection) -> Made:  # noqa: ARG001 -- it draws no map
    results = Store(folder).read_json("results.json") or {}
    title = storage.absolute(folder).rpartition("/")[2]
    return crossmodal_page.render(title, results), {
        "samples": results["pairs"],
        "maps": 0,
        "thumbnails": 0,
        "notes": [],
    }


def _of_training(folder: str, output: str, kind: Projection) -> Made:  # noqa: ARG001 -- it draws no map
    """Return the page that the evaluation made: the examples on it need the trained networks' own inputs."""
    if not storage.exists(storage.join(folder, "evaluation.json")):
        raise ConfigError(f"{folder}: was trained, not evaluated: `mmray evaluate CONFIG` first")
    about = json.loads(storage.read_bytes(storage.join(folder, "evaluation.json")))
    page = storage.read_bytes(storage.join(folder, "evaluation.html")).decode()
    return page, {"samples": about["examples"], "maps": 0, "thumbnails": 0, "notes": about["notes"]}


KINDS: dict[str, tuple[str, Callable[[str, str, Projection], Made]]] = {
    "study.json": ("study", _of_study),
    "results.json": ("cross-modal study", _of_crossmodal),
    "evaluation.json": ("evaluation", _of_training),
    "train.json": ("training", _of_training),
    "store.json": ("store", _of_store),
}
