"""``mmray study``: every combination of embeddings, fusion, classifier and label set, as Ray tasks of one thread each.

What is done is one file per cell, OUT/cells/KEY.json, written when the cell ends: its figures, and in ``answers`` the
true class and the answered one of every tested sample. KEY changes with whatever decides the figures. A study that is
stopped goes on with the cells that have no file.
"""

import faulthandler
import itertools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmray import provenance, storage
from mmray.errors import ConfigError
from mmray.fusion import cells, dataset, labels, leaderboard, sides, splits
from mmray.fusion.cells import Cell
from mmray.fusion.config import StudyConfig
from mmray.fusion.sides import Material
from mmray.pipelines import cluster, watchdog
from mmray.pipelines.console import Progress
from mmray.report import study as report
from mmray.tables import lease
from mmray.tables.store import DamagedError, Store, open_out, write_parquet

log = logging.getLogger(__name__)

Record = dict[str, Any]
HAS = {
    "done": {"cell", "accuracy", "classes", "confusion", "counts"}, "failed": {"cell", "detail"},
    "timed_out": {"cell", "detail", "timeout_s"},
}  # fmt: skip
# How often a cell begins again whose node was lost, or whose process was killed: by itself, by hand or for its memory.
MOST_LOSSES = {"node": 10, "process": 2, "memory": 2}


def run(config: StudyConfig, file: str = "configuration") -> Record:
    """Run what of a study is not done; returns the account and the leaderboard, which also stand in OUT."""
    began = time.monotonic()
    out = open_out(config.out, "study.json", file)
    with lease.hold(out, provenance.new_run_id()) as held:
        if held.note:
            log.warning("%s", held.note)
        material, said, warnings = prepare(config, file)
        keys = {cell: cells.key(cell, config, material) for cell in cells.enumerate_cells(config)}
        records = {cell: found for cell, key in keys.items() if (found := _kept(out, key, config)) is not None}
        pending = [cell for cell in keys if cell not in records]
        pending.sort(key=lambda cell: -cells.cost(cell, config, material.dataset))
        log.info("%d cells: %d done before, %d to do", len(keys), len(records), len(pending))
        busy = None
        if pending:
            with cluster.connected() as ray:
                check_cpus(ray, config, file)
                started = time.monotonic()
                for cell, record in _compute(ray, pending, config, material):
                    text = json.dumps({"cell": asdict(cell), **record}, ensure_ascii=False, separators=(",", ":"))
                    held.check()
                    storage.put(out.path("cells", f"{keys[cell]}.json"), text.encode())
                    records[cell] = _short(record)
                # Of the cores' time from the first cell handed out to the last answer, what cells that ended by
                # themselves had of it: less where other programs take it, or where cells wait for the disk.
                spent_s = sum(records[cell].get("cpu_s", 0) for cell in pending)
                busy = spent_s / (time.monotonic() - started) / float(ray.cluster_resources().get("CPU", 1))
        held.check()
        return _finish(config, out, material, records, [f"{key}.json" for key in keys.values()], {
            "study": out.uri, "cells": len(keys),
            **{status: sum(one["status"] == status for one in records.values()) for status in HAS},
            "computed": len(pending), "busy": busy and round(busy, 3), "warnings": warnings, "notes": said,
            "seconds": round(time.monotonic() - began, 3),
        })  # fmt: skip


def prepare(config: StudyConfig, file: str) -> tuple[Material, list[str], list[str]]:
    """Read everything and look at every split before any work; returns it, what was left out, and what leaks.

    ConfigError where a combination has no sample, or no two classes.
    """
    try:
        data = dataset.load(config.store, config.embeddings)
        sets = {one.as_: labels.apply(one, data, config.store) for one in config.labels}
        material = Material(data, sets)
        said = list(data.notes)
        said += [f"labels {name}: {n} samples {why}" for name, one in sets.items() for why, n in one.excluded.items()]
        every, found = cells.enumerate_cells(config), []
        if not every:
            raise ConfigError(f"fusions: {', '.join(config.fusions)}: needs embeddings of two modalities or more")
        digests = {one: block.digests() for one, block in data.blocks.items()}
        late = {(cell.embeddings, cell.labels, cell.seed) for cell in every if cell.fusion == "late"}
        for chosen in dict.fromkeys((cell.embeddings, cell.labels, cell.seed) for cell in every):
            (embeddings, name, seed), what = chosen, " + ".join(chosen[0])
            taking_part = sides.sides(embeddings, name, seed, config, material)
            for train, _ in splits.parts(taking_part.numbers) if chosen in late else ():
                sides.inner(taking_part, train, seed, config, data)  # says where it cannot be split again
            said += [f"{what}, labels {name}: {note}" for note in taking_part.notes]
            contents = dataset.together([digests[one] for one in embeddings])
            found += sides.leaks(taking_part, config, data, contents, what)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    warnings = list(dict.fromkeys(found))
    if warnings and config.leaks == "error":
        raise ConfigError(f"{file}: leaks: {warnings[0]}")
    for warning in warnings:
        log.warning("LEAK: %s", warning)
    for note in (said := list(dict.fromkeys(said))):
        log.info("left out: %s", note)
    return material, said, warnings


def check_cpus(ray: Any, config: StudyConfig, file: str) -> None:
    """Refuse cells that no machine has room for: Ray would wait for ever, and say nothing."""
    most = max(float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    if config.cpus_per_cell <= most:
        return
    said = f"cpus_per_cell: {config.cpus_per_cell:g} do not fit: the largest machine has {most:g}"
    if not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(f"{file}: {said}")
    log.warning("%s; waiting for the cluster to grow", said)


def _kept(out: Store, key: str, config: StudyConfig) -> Record | None:
    """Return the result of a cell that need not be computed: done, or given up with no less time than now."""
    record = read_cell(out, f"{key}.json")
    if record is None or record["status"] == "failed":
        return None
    return None if record["status"] == "timed_out" and config.timeout_s > record["timeout_s"] else _short(record)


def read_cell(out: Store, name: str) -> Record | None:
    """Read what came of a cell; None where it has no file yet, or a damaged one, which is said."""
    try:
        record = out.read_json("cells", name)
    except DamagedError as error:
        log.warning("%s; the cell counts as not done", error)
        return None
    if record is None or HAS.get(record.get("status", ""), {"status"}) <= record.keys():
        return record
    log.warning("%s: lacks what a cell has; it counts as not done", out.path("cells", name))
    return None


def class_counts(records: Mapping[Cell, Record]) -> Record:
    """Return the class counts of every fold of one cell for each label set, of the first that has some."""
    found: Record = {}
    for cell, record in records.items():
        if "counts" in record:
            found.setdefault(cell.labels, record["counts"])
    return found


def _short(record: Record) -> Record:
    """Leave out the answers of every sample: the files keep them, the driver needs none."""
    return {name: value for name, value in record.items() if name != "answers"}


def _cell(cell: Cell, config: StudyConfig, material: Material) -> Record:
    """Ray task: evaluate one cell; the watchdogs end a worker that takes longer than the time limit, or is stopped."""
    watchdog.guard(config.timeout_s)
    faulthandler.dump_traceback_later(config.timeout_s, exit=True)
    try:
        return {"status": "done", **cells.evaluate(cell, config, material)}
    finally:
        faulthandler.cancel_dump_traceback_later()


def _compute(
    ray: Any, pending: Sequence[Cell], config: StudyConfig, material: Material
) -> Iterator[tuple[Cell, Record]]:
    """Yield each cell with its record as it ends, the longest begun first; the material is in the object store once."""
    task = ray.remote(num_cpus=config.cpus_per_cell, max_retries=0, retry_exceptions=False)(_cell)
    about, shared = ray.put(config), ray.put(material)
    waiting = list(reversed(pending))
    handed: dict[Any, Cell] = {}  # in the order in which Ray begins them
    began: dict[Any, float] = {}
    losses: Counter[tuple[Cell, str]] = Counter()

    def hand_out() -> None:
        """Give every core a cell and the next one, which begins without asking; note when each came to the front."""
        width = max(1, int(float(ray.cluster_resources().get("CPU", 1)) / config.cpus_per_cell))
        while waiting and len(handed) < 2 * width:
            cell = waiting.pop()
            handed[task.remote(cell, about, shared)] = cell
        for reference in itertools.islice(handed, width):
            began.setdefault(reference, time.monotonic())

    with Progress("study", len(pending)) as progress:
        hand_out()
        while handed:
            ended, _ = ray.wait(list(handed), timeout=5)  # looks again, as a cluster may grow
            now = time.monotonic()
            popped = [(reference, handed.pop(reference), began.pop(reference, now)) for reference in ended]
            records: list[tuple[Cell, Record]] = []
            for reference, cell, at in popped:
                lost = _lost(ray, reference, now - at, config)
                if lost is not None and losses[cell, lost] < MOST_LOSSES[lost]:
                    losses[cell, lost] += 1
                    waiting.append(cell)
                else:
                    records.append((cell, _record(ray, reference, now - at, config)))
            hand_out()
            for cell, record in records:
                yield cell, record
                progress.advance(1)


def _lost(ray: Any, reference: Any, elapsed_s: float, config: StudyConfig) -> str | None:
    """Return what a task lost by no fault of its cell, a key of MOST_LOSSES; None where the cell has its result."""
    try:
        ray.get(reference)
    except ray.exceptions.WorkerCrashedError:
        return "process" if elapsed_s < config.timeout_s else None
    except ray.exceptions.NodeDiedError:
        return "node"
    except ray.exceptions.OutOfMemoryError:  # the monitor ends the newest task, not the one that is to blame
        return "memory"
    except ray.exceptions.RayError:
        return None
    return None


def _record(ray: Any, reference: Any, elapsed_s: float, config: StudyConfig) -> Record:
    try:
        return dict(ray.get(reference))
    except ray.exceptions.WorkerCrashedError:
        if elapsed_s >= config.timeout_s:
            detail = f"took longer than timeout_s = {config.timeout_s:g}"
            return {"status": "timed_out", "detail": detail, "timeout_s": config.timeout_s, "seconds": config.timeout_s}
        detail = f"its process died {MOST_LOSSES['process'] + 1} times"
        return {"status": "failed", "detail": detail, "seconds": round(elapsed_s, 3)}
    except ray.exceptions.RayTaskError as error:
        detail = f"{type(error.cause).__name__}: {error.cause}"
    except ray.exceptions.RayError as error:  # out of memory, a lost node
        detail = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    log.warning("a cell failed: %s", detail)
    return {"status": "failed", "detail": detail, "seconds": round(elapsed_s, 3)}


def _finish(
    config: StudyConfig, out: Store, material: Material, records: Mapping[Cell, Record], files: list[str],
    account: Record,
) -> Record:  # fmt: skip
    rows, confusions = leaderboard.build(config, records)
    table = leaderboard.frame(rows)
    write_parquet(table.to_arrow(), out.path("leaderboard.parquet"))
    storage.put(out.path("leaderboard.csv"), table.write_csv().encode())
    sets = {name: {"classes": one.counts, "left_out": one.excluded} for name, one in material.labels.items()}
    account = account | {"labels": sets, "leaderboard": rows, "report": out.path("report.html")}
    storage.put(out.path("report.html"), report.page(account, confusions, class_counts(records)).encode())
    storage.put(out.path("study.json"), json.dumps(account, ensure_ascii=False).encode())
    about: Record = {
        "config": config.model_dump(mode="json", by_alias=True),
        "asked": config.model_dump(mode="json", by_alias=True, exclude_defaults=True),  # can be read as a configuration
        "versions": provenance.versions(),
        "cells": files,
    }
    about |= {"store": storage.absolute(config.store), "git_commit": provenance.git_commit()}
    out.write_json(about, "provenance.json")
    return account
