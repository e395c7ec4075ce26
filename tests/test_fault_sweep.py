"""A few points of what `python -m tests.faults` sweeps: killed at a system call, a call that fails, forged files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults import fuzz, fuzz_state, strace
from tests.faults.trials import TRIALS, Trial

POINTS = 5


@pytest.mark.parametrize("faults", [(strace.KILL,), tuple(strace.ERRORS)], ids=["killed", "failing"])
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_command_that_ends_at_a_system_call_leaves_old_or_new(
    trial: Trial, faults: tuple[str, ...], tmp_path: Path
) -> None:
    if problem := strace.missing():
        pytest.skip(problem)
    sweep = strace.Sweep(tmp_path, trial)
    base = sweep.base()
    points = strace.thinned(sweep.points(base, faults), POINTS)
    assert len(points) == POINTS
    assert [finding for point in points for finding in sweep.tried(base, point)] == []


def test_whatever_a_forged_file_says_reading_it_ends_in_words(tmp_path: Path) -> None:
    assert fuzz.cases(tmp_path / "fuzz", range(150)) == []


def test_whatever_lies_beside_a_backup_or_comes_from_others_reading_it_ends_in_words(tmp_path: Path) -> None:
    assert fuzz_state.cases(tmp_path / "fuzz", range(300)) == []
