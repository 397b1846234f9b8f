"""A subset of the fault suite (`make faults` runs all of it), and the proof that it notices broken promises."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import deaths, everything, interrupts, oracle
from tests.faults.__main__ import run
from tests.faults.harness import Bench
from tests.faults.table import FAULTS, Fault, printed

SUBSET = [fault for fault in everything() if fault.subset]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("faults"))
    with pytest.MonkeyPatch.context() as patch:  # `make faults` repeats them ten and four times
        patch.setattr(deaths, "KILLS", 3)
        patch.setattr(interrupts, "TIMES", 2)
        yield made
    made.close()


@pytest.mark.parametrize("fault", SUBSET, ids=lambda fault: fault.name)
def test_a_fault_does_no_harm(bench: Bench, fault: Fault) -> None:
    tally = run(fault, bench)
    assert tally.clean, printed([tally])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switch", "fault"),
    [
        ("ledger before part", "kill -9 of the driver after commits"),
        ("no fence", "a run that was suspended while another took over"),
        ("every death counts", "Ctrl-C while segments are decoded"),
    ],
)
def test_the_suite_notices_a_broken_promise(tmp_path: Path, bench: Bench, switch: str, fault: str) -> None:
    broken = Bench(tmp_path / "broken", switches=(switch,), undisturbed=bench)
    try:
        tally = run(FAULTS[fault], broken)
    finally:
        broken.close()
    assert tally.lost or tally.doubled or tally.wrong or tally.exit_code, printed([tally])


def test_the_oracle_counts_what_is_lost_doubled_and_wrong() -> None:
    expected = oracle.Tables({"windows": {("a", 0): [(1.0,)], ("b", 0): [([1.0, float("nan")],)], ("c", 0): [(None,)]}})
    same = oracle.compare(expected, oracle.Tables({"windows": dict(expected.rows["windows"])}))
    assert (same.lost, same.doubled, same.wrong) == (0, 0, 0)
    observed = {("a", 0): [(1.0,), (1.0,)], ("b", 0): [([1.001, float("nan")],)], ("d", 0): [(None,)]}
    other = oracle.compare(expected, oracle.Tables({"windows": observed}))
    assert (other.lost, other.doubled, other.wrong) == (1, 1, 2)
    assert oracle.compare(expected, oracle.Tables({})).lost == 3
