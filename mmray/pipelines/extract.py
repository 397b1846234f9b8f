"""The extraction run: from a configuration to feature tables and an account of every sample."""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import provenance, storage
from mmray.config import ExtractConfig
from mmray.errors import MmrayError
from mmray.models import onnx_session
from mmray.pipelines import attempts, cluster, derived, interrupts, plan, pool, record, tidy, work
from mmray.pipelines.console import Progress
from mmray.pipelines.job import Task
from mmray.pipelines.job import tasks as build_tasks
from mmray.pipelines.state import State, look, probed
from mmray.pipelines.worker_settings import WorkerSettings
from mmray.tables import lease, ledger, manifest
from mmray.tables.lease import Lease
from mmray.tables.store import Store, open_store

log = logging.getLogger(__name__)

COMMIT_S = 2.0
MERGE_FILES = 200


def run(config: ExtractConfig, file: str = "configuration", limit: int | None = None) -> dict[str, Any]:
    """Extract everything that is not done yet; returns the account (the object that ``--json`` prints)."""
    samples = manifest.read(config.manifest)
    return carry_out(config, samples, build_tasks(config.extractors, file, samples.column_names), limit)


def carry_out(config: ExtractConfig, samples: pa.Table, tasks: list[Task], limit: int | None = None) -> dict[str, Any]:
    """Do what of some tasks is not done yet over some samples; returns the account."""
    started = time.perf_counter()
    run_id = provenance.new_run_id()
    store = open_store(storage.absolute(config.store), create=True)
    with lease.hold(store, run_id) as held, interrupts.last_resort(held.delete), tidy.marked_if_lost(store, run_id):
        if held.note:
            log.warning("%s", held.note)
        attempts.forget_interrupted(store)
        samples, state = look(store, samples, tasks)
        if sentence := plan.describe_absent(state.media):
            log.warning("%s", sentence)
        media = state.media
        chosen = media.filter(pl.col("sample_id").is_in(samples["sample_id"][:limit].to_pylist())) if limit else media
        changed_samples = state.changed
        todo = replace(state, media=chosen)
        busy = not plan.unplanned(chosen, state.segments).is_empty() or not todo.pending.is_empty()
        held.check()
        record.request(store, samples, tasks)
        if busy:
            _announce(tasks)
            tidy.begin(store, run_id)
            state = _work(store, run_id, config, state, chosen, held)
        if busy or tidy.is_needed(store):
            state = _tidied(store, run_id, state, held)
        pooled = pool.run(store, held, tasks, state.statuses, state.expected, state.rows)
        account: dict[str, Any] = {
            "run_id": run_id,
            "samples": state.samples,
            "accounts": ledger.account(state.statuses, state.ids, state.samples),
            "names": {task.id: task.as_ for task in tasks},
            "changed": changed_samples,
            "absent": state.absent,
            "nothing_to_do": not busy and not pooled,
            "seconds": round(time.perf_counter() - started, 3),
        }
        account["adds_up"] = ledger.adds_up(account["accounts"], account["samples"])
        if busy:
            held.check()
            store.write_json(
                account | {"config": json.loads(config.model_dump_json()), "limit": limit}, "runs", f"{run_id}.json"
            )
    return account


def _announce(tasks: Sequence[Task]) -> None:
    for task in tasks:
        if task.fingerprint and task.fingerprint.startswith("random:"):
            log.warning("%s: RANDOM WEIGHTS (%s): its numbers mean nothing", task.as_, task.fingerprint)


def _work(store: Store, run_id: str, config: ExtractConfig, state: State, chosen: pl.DataFrame, held: Lease) -> State:
    """Probe what is new, then run the pools one after the other; who reads another extractor comes after it."""
    with cluster.connected() as ray:
        cluster.check_shared(ray, config.store.rstrip("/"), store.path("store.json"))
        groups = _groups(config, state.tasks)
        later = {task.id for group in groups[1:] for task in group} & _to_do(replace(state, media=chosen))
        _check_models(ray, config, [task for task in state.tasks if task.id in later])
        state = probed(ray, store, config, state, chosen, held)
        for number, members in enumerate(groups):
            pending = replace(state, media=chosen).pending.filter(pl.col("extractor").is_in([t.id for t in members]))
            origins = {task.source: task.origin for task in members if task.origin is not None}
            pending = derived.with_texts(store, origins, pending, state.rows)
            commit = Commit(store, f"{run_id}-{number}", held)
            size = cluster.pool_size(ray, config.resources)
            batches = list(work.batches(pending, members, state.rows, size.now, bool(size.gpus_each)))
            _run_pool(ray, store, run_id, config, members, batches, commit)
            state = replace(state, rows=ledger.read(store))
    waiting = ledger.unavailable(state.rows)
    if lost := replace(state, media=chosen).pending.join(waiting, on=ledger.KEY, how="anti").height:
        if not storage.exists(store.path("store.json")):
            raise MmrayError(f"{store.uri}: the store was deleted during the run; the same command makes it anew")
        raise MmrayError(f"{lost} results never came back from Ray; the same command goes on from here")
    if waiting.height:
        log.warning(
            "%d segments stay pending, their sources could not be read: %s; run the same command again to read them",
            waiting.height, waiting["detail"][0],
        )  # fmt: skip
    return state


def _groups(config: ExtractConfig, tasks: Sequence[Task]) -> list[list[Task]]:
    """Return what shares an actor, in the order in which it runs: wave by wave, in each the configured pools."""
    pools = config.pools or (tuple(task.as_ for task in tasks),)
    waves = sorted({task.wave for task in tasks})
    groups = [[task for task in tasks if task.wave == wave and task.as_ in names] for wave in waves for names in pools]
    return [group for group in groups if group]


def _to_do(state: State) -> set[str]:
    """Return the extractors that will have work: something pending, or a source with something pending."""
    if not plan.unplanned(state.media, state.segments).is_empty():
        return set(state.ids)
    found = set(state.pending["extractor"])
    for task in sorted(state.tasks, key=lambda task: task.wave):
        if task.origin in found:
            found.add(task.id)
    return found


def _check_models(ray: Any, config: ExtractConfig, tasks: Sequence[Task]) -> None:
    """Load models once, in a process of its own: a bad checkpoint of a later pool must not end a run after hours."""
    if any(task.path for task in tasks):
        gpus = cluster.pool_size(ray, config.resources).gpus_each
        load = ray.remote(num_cpus=config.resources.cpus_per_actor, num_gpus=gpus, max_retries=1)(_load_all)
        try:
            ray.get(load.remote(tasks, "cuda:0" if gpus else "cpu"))
        except ray.exceptions.RayError as error:
            raise cluster.root_cause(error) from error


def _load_all(tasks: Sequence[Task], device: str) -> None:
    from mmray.pipelines.worker import loaded

    _set_up()
    for task in tasks:
        if task.path:
            loaded(task, device)


def _set_up() -> None:
    """Prepare a worker process: a thousand actors never ask the hub, and tokenizers take no core of their own."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _run_pool(
    ray: Any,
    store: Store,
    run_id: str,
    config: ExtractConfig,
    tasks: list[Task],
    batches: list[list[dict[str, Any]]],
    commit: "Commit",
) -> None:
    """Run one actor pool over lists of segments; what is finished is committed every few seconds."""
    if not batches:
        return
    size = cluster.pool_size(ray, config.resources, len(batches))
    threads = config.resources.decode_threads or cluster.decode_threads(ray, size.now)
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = max(1800, int(4 * config.timeout_s))
    settings = WorkerSettings(
        store=store.uri,
        run_id=run_id,
        device="cuda:0" if size.gpus_each else "cpu",
        timeout_s=config.timeout_s,
        max_attempts=config.max_attempts,
        decode_threads=threads,
        cpus=max(1, int(config.resources.cpus_per_actor)),
    )
    calls = [pa.table({"work": [json.dumps(batch, ensure_ascii=False)]}) for batch in batches]
    dataset = ray.data.from_arrow(calls).map_batches(
        Actor,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=size.least, initial_size=size.now, max_size=size.most),
        num_cpus=config.resources.cpus_per_actor,
        num_gpus=size.gpus_each,
        fn_constructor_args=(settings, tasks),
    )
    on_cpu = [task.as_ for task in tasks if str(task.path).endswith(".onnx")]
    if size.gpus_each and on_cpu and not onnx_session.has_cuda():
        log.warning("%s: %s", ", ".join(on_cpu), onnx_session.LACKING)
    total = sum(len(batch) for batch in batches)
    log.info(
        "%d segments for %s, on %d actor(s) with %g GPU and %d decoding threads each",
        total, ", ".join(task.as_ for task in tasks), size.now, size.gpus_each, threads,
    )  # fmt: skip
    try:
        with Progress("extract", total) as progress:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                progress.advance(commit.add(table))
    except ray.exceptions.RayError as error:
        raise cluster.root_cause(error) from error
    finally:
        commit.now()


class Actor:
    """What Ray runs: a Worker, made once in each actor process."""

    def __init__(self, settings: WorkerSettings, tasks: list[Task]) -> None:
        _set_up()
        import ray

        from mmray.pipelines.feed import Segment
        from mmray.pipelines.worker import Worker

        self._segment = Segment
        self._worker = Worker(settings, tasks, ray.get_runtime_context().get_node_id(), cluster.node_is_lost)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(settings.cpus)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Work on one list of segments."""
        work = json.loads(batch["work"][0].as_py())
        return self._worker.run([self._segment(**{**values, "tasks": tuple(values["tasks"])}) for values in work])


class Commit:
    """Collect finished rows and write them every few seconds: flags, then the ledger."""

    def __init__(self, store: Store, name: str, held: Lease) -> None:
        self._store, self._name, self._held = store, name, held
        self._waiting: list[pa.Table] = []
        self._own: list[tuple[str, pa.Table]] = []
        self._files = 0
        self._last = time.monotonic()

    def add(self, results: pa.Table) -> int:
        """Take rows; returns how many segments they finish."""
        self._waiting.append(results)
        if time.monotonic() - self._last > COMMIT_S:
            self.now()
        return int(results.group_by(["sample_id", "source", "segment"]).aggregate([]).num_rows)

    def now(self) -> None:
        """Write what waits; what the ledger does not have did not happen."""
        waiting, self._waiting, self._last = self._waiting, [], time.monotonic()
        if not waiting:
            return
        self._files += 1
        results = pa.concat_tables(waiting)
        self._held.check()
        flags = ledger.as_polars(results.select(["sample_id", "source", "segment", "input", *plan.FLAGS]))
        known = flags.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in plan.FLAGS))
        if not known.is_empty():
            self._store.write(known.unique().to_arrow(), "flags", f"part-{self._name}-{self._files:06d}.parquet")
        self._own.append((ledger.append(self._store, results, self._name, self._files, self._held), results))
        if len(self._own) == MERGE_FILES:
            self._merge()

    def _merge(self) -> None:
        """Put the last files of the ledger into one, so that a run of days leaves hundreds, not tens of thousands."""
        own, self._own = self._own, []
        self._files += 1
        merged = pa.concat_tables([rows for _, rows in own])
        ledger.append(self._store, merged, self._name, self._files, self._held)
        storage.delete(uri for uri, _ in own)


def _tidied(store: Store, run_id: str, state: State, held: Lease) -> State:
    """Make plain globs exact: flags into the segment table, one ledger file, no superseded rows, no orphans."""
    tidy.flags(store, held, state.segments)
    rows = tidy.windows_and_ledger(store, run_id, state.rows, held)
    held.check()
    attempts.forget_all(store)
    tidy.end(store, held)
    return replace(state, rows=rows)
