"""Media and stores behind an S3 server that fails: a run takes longer, and nothing else changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmray import storage
from tests.faults import oracle
from tests.faults.harness import Bench, Run, wait_for
from tests.faults.proxy import Fault, Kind
from tests.faults.table import Tally, fault, repeated

SHARE = 0.2  # of the requests that fail
DOWN_S = 30.0
MEDIA, STORES = "faults-media", "faults-stores"
ERRORS = {
    "500": Fault(Kind.ERROR, share=SHARE, status=500),
    "503": Fault(Kind.ERROR, share=SHARE, status=503),
    "reset connections": Fault(Kind.RESET, share=SHARE),
    "slow answers": Fault(Kind.SLOW, share=SHARE, delay_s=1.0),
    "cut bodies": Fault(Kind.CUT_BODY, share=SHARE),
}
LOST = Fault(Kind.LOST_RESPONSE, share=SHARE, methods=("PUT", "DELETE", "POST"))


def of(known: Fault, bucket: str) -> Fault:
    """Return the fault for the requests of one bucket."""
    from dataclasses import replace

    return replace(known, prefix=f"/{bucket}")


@contextmanager
def media_on_s3(bench: Bench, tally: Tally) -> Iterator[tuple[Run, oracle.Tables]]:
    """Give a run whose media are on S3, and the tables of an undisturbed one."""
    s3 = bench.s3
    manifest = s3.manifest(MEDIA)
    expected = bench.reference("media on S3", head=s3.head, manifest=manifest)
    with bench.run(tally.fault, head=s3.head, manifest=manifest, max_attempts=1) as run:
        yield run, expected
        s3.proxy.clear()


@contextmanager
def store_on_s3(bench: Bench, tally: Tally) -> Iterator[Run]:
    """Give a run whose store is on S3."""
    s3 = bench.s3
    with bench.run(tally.fault, head=s3.head, store=s3.new_store(STORES), max_attempts=1) as run:
        yield run
        s3.proxy.clear()


def copied(run: Run) -> Path:
    """Copy a store on S3 to disk."""
    target = run.folder / "copy"
    for entry in storage.files(run.store):
        path = target / entry.uri.removeprefix(run.store).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.read_bytes(entry.uri))
    return target


def compared(bench: Bench, tally: Tally, run: Run) -> None:
    """Compare a store on S3 with an undisturbed one on disk."""
    tally.compare(bench.reference(), run, copied(run))


def media_fault(name: str, known: Fault) -> Callable[[Bench, Tally], None]:
    """Make the fault in which requests for media fail."""

    def body(bench: Bench, tally: Tally) -> None:
        with media_on_s3(bench, tally) as (run, expected), repeated(tally):
            before = bench.s3.proxy.count(fault=known.kind)
            bench.s3.proxy.inject(of(known, MEDIA))
            tally.ends(run.start(), 0, seconds=400)
            tally.expect(bench.s3.proxy.count(fault=known.kind) > before, "no request failed")
            bench.s3.proxy.clear()
            tally.compare(expected, run)

    return fault(f"S3 with the media: {name}", subset=name == "503")(body)


def store_fault(name: str, known: Fault) -> Callable[[Bench, Tally], None]:
    """Make the fault in which requests for the store fail."""

    def body(bench: Bench, tally: Tally) -> None:
        with store_on_s3(bench, tally) as run, repeated(tally):
            before = bench.s3.proxy.count(fault=known.kind)
            bench.s3.proxy.inject(of(known, STORES))
            tally.ends(run.start(), 0, seconds=400)
            tally.expect(bench.s3.proxy.count(fault=known.kind) > before, "no request failed")
            bench.s3.proxy.clear()
            compared(bench, tally, run)

    return fault(f"S3 with the store: {name}")(body)


for label, error in ERRORS.items():
    media_fault(label, error)
    store_fault(label, error)
store_fault("lost answers", LOST)


@fault("S3 with the media: down for 30 s")
def media_down(bench: Bench, tally: Tally) -> None:
    with media_on_s3(bench, tally) as (run, expected), repeated(tally):
        run.control.pace(0.3)
        driver = run.start()
        wait_for(run.commits, "a commit")
        bench.s3.proxy.down(DOWN_S)
        run.control.pace(0)
        tally.ends(driver, 0, seconds=400)
        bench.s3.proxy.up()
        tally.compare(expected, run)


@fault("S3 with the media: gone, and back for the next run")
def media_gone(bench: Bench, tally: Tally) -> None:
    """What stays out of reach is pending with the reason ``unavailable``, and the next run does it."""
    with media_on_s3(bench, tally) as (run, expected), repeated(tally):
        run.control.pace(0.3)
        driver = run.start(timeout_s=10)
        wait_for(run.commits, "a commit")
        bench.s3.proxy.inject(Fault(Kind.ERROR, prefix=f"/{MEDIA}"))
        run.control.pace(0)
        tally.ends(driver, 0, seconds=400)
        reasons = {reason for counts in driver.result["accounts"].values() for reason in counts["reasons"]}
        failed = sum(counts["failed"] for counts in driver.result["accounts"].values())
        tally.expect(reasons <= {"unavailable"}, f"reasons: {reasons}")
        tally.expect(failed == 0, f"{failed} healthy samples failed")
        bench.s3.proxy.clear()
        tally.ends(run.start(), 0)
        tally.compare(expected, run)


@fault("S3 with the store: down for 30 s")
def store_down(bench: Bench, tally: Tally) -> None:
    with store_on_s3(bench, tally) as run, repeated(tally):
        run.control.pace(0.3)
        driver = run.start()
        wait_for(lambda: bench.s3.proxy.count("PUT", part=f"{run.store.rpartition('/')[2]}/ledger/"), "a commit")
        bench.s3.proxy.down(DOWN_S)
        run.control.pace(0)
        tally.ends(driver, 0, seconds=400)
        bench.s3.proxy.up()
        compared(bench, tally, run)


@fault("S3 with the store: stale lists")
def store_stale(bench: Bench, tally: Tally) -> None:
    """Lists that a second run sees are old: it may refuse, but must not harm; a third run puts the tables right."""
    with store_on_s3(bench, tally) as run, repeated(tally):
        tally.ends(run.verb("extract", str(run.configured()), "--limit", "10"), 0)
        bench.s3.proxy.inject(Fault(Kind.STALE_LIST, prefix=f"/{STORES}", count=40))
        stale = run.start()
        tally.exit_code += stale.wait() not in (0, 3)
        tally.says(stale)
        bench.s3.proxy.clear()
        tally.ends(run.start(), 0)
        compared(bench, tally, run)
