"""A few points of what `python -m tests.faults` sweeps: killed at a system call, a call that fails, forged files."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults import fuzz, fuzz_state, strace
from tests.faults.trials import PROJECT, TRIALS, Trial

MAKES = {
    "create": {"open", "mkdir", "write", "pwrite64", "unlink", "syncfs", "rename", "fsync"},
    "prune": {"mkdir", "rename", "fsync", "unlink", "write"},
    "restore": {"open", "mkdir", "write", "pwrite64", "unlink", "syncfs", "rename", "fsync"},
    "verify": {"open", "mkdir", "write", "rename", "fsync"},
    "hold": {"open", "mkdir", "write", "rename", "fsync"},
    "release": {"unlink", "fsync", "write"},
    "share": {"link"},
}
"""Kinds of calls that a command makes from its first write on, and is ended at; it may make others too."""
LEFT_OUT = ("flock", "ftruncate")
"""Nothing that lasts hangs on them: the whole sweep has them."""
KNOWN = ".staging-known"
NAMED = (
    "from docmind_backup import catalog as c; "
    f"c.Catalog.new_staging = lambda self, _: (self.root / '{KNOWN}').mkdir(mode=0o700) or self.root / '{KNOWN}'; "
)
"""The staging folder has a name that is known beforehand: strace picks out calls for a file by its path."""


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
@pytest.mark.parametrize("fault", ["kill", "errors"])
def test_a_command_that_ends_at_a_system_call_leaves_old_or_new(trial: Trial, fault: str, tmp_path: Path) -> None:
    if problem := strace.missing():
        pytest.skip(problem)
    sweep = strace.Sweep(tmp_path, trial)
    base = sweep.base()
    points = strace.of_each_kind(sweep.points(base, (strace.KILL, *strace.ERRORS)))
    chosen = [
        point for point in points if (point.fault == strace.KILL) == (fault == "kill") and _is_tried(trial, point)
    ]
    assert {_kind(point.call) for point in chosen} >= MAKES[trial.name]
    assert [finding for point in chosen for finding in sweep.tried(base, point)] == []


def _is_tried(trial: Trial, point: strace.Point) -> bool:
    """What shares makes the calls of create besides."""
    return point.call not in LEFT_OUT and (trial.name != "share" or "link" in point.call)


def _kind(call: str) -> str:
    """`renameat2` is a `rename`."""
    return call.removesuffix("2").removesuffix("at")


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
def test_no_space_for_what_a_backup_says_of_itself_publishes_nothing(error: str, tmp_path: Path) -> None:
    if problem := strace.missing():
        pytest.skip(problem)
    sweep = strace.Sweep(tmp_path, TRIALS[-1], NAMED)
    base = sweep.base()
    for name in ("inventory.jsonl", "manifest.json", "SHA256SUMS", "backup.json"):
        at = Path(PROJECT, "data", "backups", KNOWN, name)
        ended, problem = sweep.ended(base, strace.Point("write", 1, f"error={error}", at=at))
        assert ([Path(path).name for path in ended.hit], ended.code, problem) == ([name], 13, "")


BROKEN = {
    "from docmind_backup import executor as e; e.remove = lambda _: None; ": "left by a run that ended by itself",
    "import os, sys; os.utime(f'{sys.argv[3]}/.env'); ": ".env: another mtime_ns",
    "import os; os.close(os.open(os.path.expanduser('~/.docmind'), os.O_CREAT)); ": "home/.docmind: made",
    "from docmind_backup import errors as e; e.NoSpace.exit_code = 1; ": "is exit 1",
    "from docmind_backup import operations as o; o.tell_failure = lambda *_: None; ": "no event",
    "print('so far so good'); ": "cannot be read",
}
"""The tool broken on purpose, and what has to be said of it."""


def test_a_tool_that_leaves_touches_or_lies_is_found_out(tmp_path: Path) -> None:
    if problem := strace.missing():
        pytest.skip(problem)
    base = strace.Sweep(tmp_path, TRIALS[-1]).base()
    at = Path(PROJECT, "data", "backups", KNOWN, "backup.json")
    for broken, words in BROKEN.items():
        sweep = strace.Sweep(tmp_path, TRIALS[-1], NAMED + broken)
        assert words in sweep.ended(base, strace.Point("write", 1, "error=ENOSPC", at=at))[1]


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
