"""``mmray generate``: pictures, sounds and pictures that sound, for a list or a manifest of prompts.

It is an extraction whose samples are requests: the same actors, ledger, account and resume.
"""

import logging
from pathlib import PurePosixPath
from typing import Any

import polars as pl
import pyarrow as pa

from mmray import provenance, storage
from mmray.config import Entry, ExtractConfig
from mmray.errors import ConfigError
from mmray.generation import rank
from mmray.generation.base import Result
from mmray.models import catalogue
from mmray.pipelines import extract, generator, job, likeness, prompts
from mmray.pipelines.job import Task
from mmray.pipelines.prompts import GenerateConfig
from mmray.tables import lease, windows
from mmray.tables.store import Store, open_store

log = logging.getLogger(__name__)

FILES = {"picture_png": ".png", "sound_wav": ".wav"}
ROW_BYTES = 4 * 2**20  # of a row, roughly


def run(
    config: GenerateConfig, file: str = "configuration", limit: int | None = None, folder: str | None = None
) -> dict[str, Any]:
    """Make everything that is not made yet; returns the account, as of an extraction.

    ``folder``: also write what is made of this configuration as FOLDER/SAMPLE.png and .wav; ``files`` counts them.
    """
    family = prompts.generator(config, file)
    samples, pictures = prompts.read(config, family.request, file)
    if folder is not None:
        _check_names(samples["sample_id"].to_pylist())
    task = generator.task(config.generator.as_, family, config.scores, pictures, file)
    for name in (getattr(task.extractor, field) for field in task.extractor.checkpoints):
        if (known := catalogue.find(name)) and known.non_commercial:
            log.warning("%s: %s: not for commercial use", name, known.licence)
    if config.frames is not None and "uri" not in samples.column_names:
        raise ConfigError(f"{file}: frames: no prompt has a uri: the video to compare with")
    entries = [] if config.frames is None else [_frames(config)]
    tasks = [task, *job.tasks(entries, file, samples.column_names)]
    account = extract.carry_out(_as_extraction(config, entries, file), samples, tasks, limit)
    store = open_store(storage.absolute(config.store))
    if config.frames is not None:
        with lease.hold(store, provenance.new_run_id()) as held:
            account["likeness"] = likeness.run(store, samples, tasks[0], tasks[1], held)
    if folder is not None:
        account["files"] = _written(store, samples, task, config.best, folder)
    return account


def _frames(config: GenerateConfig) -> Entry:
    """Return the extractor that looks at the videos."""
    about = {"name": "clip", "as": "frames", "model": config.scores.clip, "representative": config.frames}
    return Entry.model_validate(about | {"source": "uri"})


def _as_extraction(config: GenerateConfig, entries: list[Entry], file: str) -> ExtractConfig:
    """Return the configuration that the run is carried out by, and recorded with."""
    extractors = (config.generator, *entries)
    return ExtractConfig(
        manifest=config.manifest or file,
        store=config.store,
        max_error_rate=config.max_error_rate,
        max_attempts=config.max_attempts,
        timeout_s=config.timeout_s,
        extractors=extractors,
        pools=tuple((one.as_,) for one in extractors),
        resources=config.resources,
    )


def _check_names(ids: list[str]) -> None:
    """Refuse sample ids that would be files outside of the folder."""
    for sample_id in ids:
        path = PurePosixPath(sample_id)
        if path.is_absolute() or ".." in path.parts or "\0" in sample_id:
            raise ConfigError(f"--files: the sample_id {sample_id!r} would be a file outside of the folder")


def _written(store: Store, samples: pa.Table, task: Task, best: int | None, folder: str) -> int:
    """Write the committed results of some samples, of each prompt the ``best``, as files; returns how many."""
    made = likeness.finished(store, samples, task)
    if best is not None:
        made = made.filter(pl.col("sample_id").is_in(_best(store, samples, made, best)))
    count = 0
    for chunk in windows.by_size(made, ROW_BYTES):
        for row in windows.counted(store, chunk, list(FILES)).to_pylist():
            for column, suffix in FILES.items():
                if row[column] is not None:
                    storage.put(storage.join(folder, row["sample_id"] + suffix), row[column])
                    count += 1
    log.info("%d file(s) written to %s", count, folder)
    return count


def _best(store: Store, samples: pa.Table, made: pl.DataFrame, best: int) -> list[str]:
    """Return the samples with the best scores of each prompt."""
    prompt_of = dict(zip(samples["sample_id"].to_pylist(), samples["prompt_id"].to_pylist(), strict=True))
    results: dict[str, list[Result]] = {}
    for row in windows.counted(store, made, ["clip", "clap"]).to_pylist():
        scores = {name: row[name] for name in ("clip", "clap") if row[name] is not None}
        results.setdefault(prompt_of[row["sample_id"]], []).append(Result(text=row["sample_id"], scores=scores))
    return [str(one.text) for own in results.values() for one in rank.best(own, best)]
