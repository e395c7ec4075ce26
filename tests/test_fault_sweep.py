"""A few points of what `python -m tests.faults` sweeps: killed at a system call, a call that fails, forged files."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults import fuzz, fuzz_state, strace
from tests.faults.trials import TRIALS, Trial

POINTS = {"create": 5, "prune": 5, "restore": 5, "verify": 3, "hold": 3, "release": 2}
"""At which each command is ended; the same ones each time."""
SEED = 7


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_command_that_ends_at_a_system_call_leaves_old_or_new(trial: Trial, tmp_path: Path) -> None:
    if problem := strace.missing():
        pytest.skip(problem)
    sweep = strace.Sweep(tmp_path, trial)
    base = sweep.base()
    every = sweep.points(base, (strace.KILL, *strace.ERRORS))
    points = strace.sampled(every, POINTS[trial.name], SEED)
    assert [finding for point in points for finding in sweep.tried(base, point)] == []


def test_what_is_injected_happens() -> None:
    if problem := strace.missing():
        pytest.skip(problem)
    code = "import os\ntry: os.mkdir('/')\nexcept OSError as error: raise SystemExit(error.errno)"
    command = (sys.executable, "-S", "-c", code)

    failed = subprocess.run([*strace.injecting("mkdir", "error=EIO:when=1"), *command], check=False)
    killed = subprocess.run([*strace.injecting("mkdir", f"{strace.KILL}:when=1"), *command], check=False)
    neither = subprocess.run([*strace.injecting("mkdir", f"{strace.KILL}:when=2"), *command], check=False)

    assert (failed.returncode, killed.returncode, neither.returncode) == (errno.EIO, -9, errno.EEXIST)


def test_whatever_a_forged_file_says_reading_it_ends_in_words(tmp_path: Path) -> None:
    assert fuzz.cases(tmp_path / "fuzz", range(150)) == []


def test_whatever_lies_beside_a_backup_or_comes_from_others_reading_it_ends_in_words(tmp_path: Path) -> None:
    assert fuzz_state.cases(tmp_path / "fuzz", range(300)) == []
