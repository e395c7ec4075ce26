"""After a power cut a backup is absent or whole, and one whose command had ended with 0 is there.

A handful of cuts; `python -m tests.faults power --cuts 200` makes as many as wanted (docs/contributing.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.disk import SIZE, host, missing
from tests.faults.power import MOMENTS, WITHOUT_FLUSH, Bed
from tests.faults.trials import TRIALS, Trial
from tests.sweep import STEP


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if problem := missing():
        pytest.skip(problem)
    with host(tmp_path_factory.mktemp("power")) as at:
        yield at


@pytest.mark.parametrize("trial", TRIALS[:3], ids=lambda trial: trial.name)
@pytest.mark.parametrize("kind", SIZE)
def test_what_a_power_cut_leaves_is_absent_or_whole(kind: str, trial: Trial, place: Path) -> None:
    if problem := missing(kind):
        pytest.skip(problem)
    bed = Bed(place, kind)
    base = bed.base(trial)
    assert list(bed.cut(trial, base, seed=1, cuts=3)) == []
    base.unlink()


@pytest.mark.parametrize("kind", SIZE if STEP == 1 else ["ext4"])
def test_a_power_cut_at_each_moment_of_publishing_leaves_it_absent_or_whole(kind: str, place: Path) -> None:
    if problem := missing(kind):
        pytest.skip(problem)
    create = TRIALS[0]
    bed = Bed(place, kind)
    base = bed.base(create)
    assert [finding for moment in MOMENTS for finding in bed.cut_at(create, base, moment)] == []
    base.unlink()


def test_a_tool_that_does_not_flush_is_found_out(place: Path) -> None:
    create = TRIALS[0]
    bed = Bed(place, "xfs", WITHOUT_FLUSH)
    base = bed.base(create)
    assert list(bed.cut(create, base, seed=1, cuts=0))
    base.unlink()
