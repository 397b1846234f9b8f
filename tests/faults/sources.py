"""Sources that go away and come back, that change, shrink or are replaced, and what reads other extractors."""

from collections.abc import Callable
from pathlib import Path

from tests.faults import corpus, oracle
from tests.faults.harness import Bench, NeverError, Run, derived, wait_for
from tests.faults.table import Tally, fault, repeated

CHANGED, REPLACED = "clip-00.mp4", "clip-11.mp4"
LIMIT = 10
UNSEEN = "cannot be seen now"
OTHER_SEGMENT_S = 3.84


def with_own_media(bench: Bench, run: Run) -> Path:
    """Give a run a copy of the corpus that it may change."""
    media = corpus.copied(bench.media, run.folder / "media")
    run.keys["manifest"] = corpus.manifest_of(media, run.folder / "manifest.parquet")
    return media


def away(media: Path) -> Path:
    """Take a folder away, as an unmounted disk; returns where it is now."""
    return media.rename(media.with_name("elsewhere"))


@fault("a source folder that is gone when a run starts", subset=True)
def absent_before(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault) as run:
        media = with_own_media(bench, run)
        tally.ends(run.start(), 0)
        with repeated(tally):
            elsewhere = away(media)
            tally.ends(run.start(), 0, UNSEEN)
            tally.compare(bench.reference(), run)
            elsewhere.rename(media)
            again = run.start()
            tally.ends(again, 0)
            tally.expect(again.result.get("nothing_to_do"), "what was finished before is done again")
            tally.compare(bench.reference(), run)


@fault("a source folder that disappears during a run, and returns")
def absent_during(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault) as run:
        media = with_own_media(bench, run)
        run.control.pace(0.3)
        driver = run.start()
        with repeated(tally):
            wait_for(run.commits, "a commit")
            elsewhere = away(media)
            run.control.pace(0)
            tally.ends(driver, 0)
            tally.ends(run.start(), 0, UNSEEN)
            elsewhere.rename(media)
            tally.ends(run.start(), 0)
            tally.compare(bench.reference(), run)


@fault("one source that is gone, and returns")
def file_absent(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault) as run:
        media = with_own_media(bench, run)
        tally.ends(run.start(), 0)
        with repeated(tally):
            elsewhere = (media / CHANGED).rename(run.folder / CHANGED)
            tally.ends(run.start(), 0)
            tally.compare(bench.reference(), run)
            elsewhere.rename(media / CHANGED)
            tally.ends(run.start(), 0)
            tally.compare(bench.reference(), run)


def change(media: Path) -> None:
    """Change one source, shrink the medium of three segments to one, and replace another by one of the same length."""
    (media / CHANGED).write_bytes((media / "clip-16.mp4").read_bytes())
    (media / corpus.MEDIUM).write_bytes((media / "clip-21.mp4").read_bytes())
    replaced = media / REPLACED
    data = bytearray(replaced.read_bytes())
    data[-200:] = reversed(data[-200:])
    replaced.write_bytes(data)


def undisturbed(bench: Bench, run: Run, name: str) -> oracle.Tables:
    """Return the tables of an undisturbed run over the media of another run as they are now."""
    return bench.reference(f"{name} {run.folder.name}", manifest=run.keys["manifest"])


@fault("changed, shrunk and replaced sources")
def changed(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault) as run:
        media = with_own_media(bench, run)
        tally.ends(run.start(), 0)
        with repeated(tally):
            change(media)
            again = run.start()
            tally.ends(again, 0)
            tally.expect(again.result.get("changed") == 3, f"changed: {again.result.get('changed')}, not 3")
            tally.compare(undisturbed(bench, run, "changed"), run)


@fault("sources that change during a run")
def changed_during(bench: Bench, tally: Tally) -> None:
    with bench.run(tally.fault) as run:
        media = with_own_media(bench, run)
        run.control.hold()
        driver = run.start()
        with repeated(tally):
            wait_for(run.working, "an actor at work")
            change(media)
            run.control.free()
            tally.ends(driver, 0)
            tally.ends(run.start(), 0)
            tally.compare(undisturbed(bench, run, "changed"), run)


@fault("changed sources, and a clock that was set back")
def changed_and_clock(bench: Bench, tally: Tally) -> None:
    """The rows of the later run count, whatever its clock says."""
    with bench.run(tally.fault) as run:
        media = with_own_media(bench, run)
        tally.ends(run.start(), 0)
        with repeated(tally):
            change(media)
            tally.ends(run.start(fault={"clock_s": -86_400}), 0)
            tally.compare(undisturbed(bench, run, "changed"), run)


def half_done(run: Run) -> None:
    """Start the run and kill it behind its first commit."""
    run.control.pace(0.3)
    driver = run.start()
    wait_for(lambda: run.commits() or not driver.running, "a commit")
    if not driver.running:
        raise NeverError(f"the run ended before it could be killed: {driver.errors[-300:]}")
    driver.kill()
    run.control.pace(0)


@fault("resumed with another segment_s")
def other_segments(bench: Bench, tally: Tally) -> None:
    """What was cut keeps its cut; samples that are new get the other one."""
    with bench.run(tally.fault, max_attempts=1) as run, repeated(tally):
        half_done(run)
        tally.ends(run.start(segment_s=OTHER_SEGMENT_S), 0)
        tally.compare(bench.reference(), run)
    with bench.run(f"{tally.fault} new", max_attempts=1) as run, repeated(tally):
        limited = run.verb("extract", str(run.configured()), "--limit", str(LIMIT))
        tally.ends(limited, 0)
        tally.ends(run.start(segment_s=OTHER_SEGMENT_S), 0)
        tally.compare(bench.reference("other segments", segment_s=OTHER_SEGMENT_S), run)


def retried(bench: Bench, tally: Tally, between: Callable[[Run], None]) -> None:
    """Let some samples of the first extractor fail, retry them, and finish; what reads it must follow."""
    expected = bench.reference("derived", extractors=derived())
    with bench.run(tally.fault, extractors=derived(), max_attempts=1) as run, repeated(tally):
        run.control.hold("refuse")
        first = run.start()
        tally.ends(first, 0)
        skipped = [counts["reasons"].get("source_failed", 0) for counts in first.result["accounts"].values()]
        tally.expect(any(skipped), "no sample was refused")
        run.control.free("refuse")
        tally.ends(run.verb("retry", run.store, "--reason", "model_error"), 0)
        between(run)
        tally.ends(run.start(), 0)
        tally.compare(expected, run)


@fault("a retried source of a derived extractor")
def retried_source(bench: Bench, tally: Tally) -> None:
    retried(bench, tally, lambda run: None)


@fault("a retried source, and a killed driver")
def retried_and_killed(bench: Bench, tally: Tally) -> None:
    def kill(run: Run) -> None:
        run.control.hold()
        driver = run.start()
        wait_for(run.working, "an actor at work")
        driver.kill()
        run.control.free()

    retried(bench, tally, kill)
