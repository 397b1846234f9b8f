"""Other verbs on a store that a run writes: who writes is refused, who reads is served."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.faults.harness import Bench, Run, wait_for
from tests.faults.sources import LIMIT
from tests.faults.table import Tally, fault, repeated


@fault("other verbs during a run", subset=True)
def during(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault) as run:
        tally.ends(run.verb("extract", str(run.configured()), "--limit", str(LIMIT)), 0)
        run.control.hold()
        driver = run.start()
        wait_for(run.working, "an actor at work")
        lease = json.loads((run.path / "lock.json").read_text())["run_id"]
        vectors = run.folder / "vectors.npz"
        np.savez(vectors, ids=np.array(["clip-00.mp4"]), matrix=np.ones((1, 3), np.float32))
        for words in (
            ("extract", str(run.configured())),
            ("import", str(vectors), "--store", run.store, "--as", "foreign"),
            ("retry", run.store, "--reason", "crashed"),
            ("verify", run.store, "--clean"),
        ):
            with repeated(tally):
                tally.ends(run.verb(*words), 3, lease)
        for words in (
            ("verify", run.store),
            ("status", run.store),
            ("report", run.store, "-o", str(run.folder / "report.html")),
            ("search", run.store, "--sample", "clip-00.mp4", "--in", "gauge"),
        ):
            with repeated(tally):
                tally.ends(run.verb(*words), 0)
        run.control.free()
        tally.ends(driver, 0)
        tally.compare(bench.reference(), run)


@fault("serve and search during a run")
def served(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault) as run:
        tally.ends(run.verb("extract", str(run.configured()), "--limit", str(LIMIT)), 0)
        run.control.hold()
        driver = run.start()
        wait_for(run.working, "an actor at work")
        with repeated(tally):
            url, server = endpoint(run)
            wait_for(lambda: asked(url) or not server.running, "an answer of the endpoint")
            tally.expect(asked(url), f"the endpoint found nothing: {server.errors[-300:]}")
            run.control.free()
            tally.ends(driver, 0)
            tally.expect(asked(url), f"the endpoint found nothing after the run: {server.errors[-300:]}")
            server.interrupt()
            tally.ends(server, 0)
        tally.compare(bench.reference(), run)


def endpoint(run: Run) -> tuple[str, Any]:
    """Start ``mmray serve`` over the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {"port": port, "store": run.store}
    path = Path(run.folder / "serve.yaml")
    path.write_text(yaml.safe_dump(config))
    return f"http://127.0.0.1:{port}/v1/search", run.verb("serve", str(path))


def asked(url: str) -> list[Any]:
    """Return what the endpoint finds for a sample."""
    body = json.dumps({"sample": "clip-00.mp4", "within": "gauge", "k": 3}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            results: list[Any] = json.load(response)["results"]
            return results
    except (OSError, urllib.error.HTTPError):
        return []
