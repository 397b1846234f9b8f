"""``mmray study`` of maps between two embeddings: fit, measure and write, under the lease of the output folder.

Written to OUT: ``results.json``, ``answers.parquet`` (what each map answered to each source) and ``maps/NAME``.
"""

import json
import logging
import time
from typing import Any

import pyarrow as pa

from mmray import provenance, storage
from mmray.fusion import crossmodal, map_files
from mmray.fusion.crossmodal import CrossmodalConfig
from mmray.fusion.maps import NAMES
from mmray.tables import lease
from mmray.tables.store import open_out, write_parquet

log = logging.getLogger(__name__)


def run(config: CrossmodalConfig, file: str = "configuration") -> dict[str, Any]:
    """Run a cross-modal study; returns what ``results.json`` holds. ConfigError before any fitting."""
    started = time.monotonic()
    out = open_out(config.out, "results.json", file)
    question = crossmodal.prepare(config, file)
    with lease.hold(out, provenance.new_run_id()) as held:
        if held.note:
            log.warning("%s", held.note)
        results, answers = question.results | {"maps": {}}, []
        for fit in crossmodal.fits(config, question):
            results["maps"][fit.name] = fit.figures
            answers.append(fit.answers)
            held.check()
            map_files.save(fit.model, out.path("maps", fit.name), question.provenance(config))
        held.check()
        write_parquet(pa.concat_tables(answers), out.path("answers.parquet"))
        results["seconds"] = round(time.monotonic() - started, 3)
        for name in set(NAMES) - set(config.maps):
            storage.delete_folder(out.path("maps", name))  # of an earlier run: other pairs, other settings
        storage.put(out.path("results.json"), json.dumps(results, indent=1, ensure_ascii=False).encode())
    return results
