"""A command is killed at a system call, or the call fails: each call of interest in turn, by strace's own injection.

strace counts the calls of each thread for itself; which thread copies what is another one each time. So a point is
a call's number in some thread of the run that was traced, and what it hits in another run may be its neighbour.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults import invariants
from tests.faults.invariants import Ended, Looked, changed, live, look
from tests.faults.trials import PROJECT, Finding, Tool, Trial

CALLS = (
    *("openat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "flock"),
)
"""What changes a disk, and what orders the changes. syncfs besides: it has no path."""
STRACE = ("strace", "-f", "-qq", "--seccomp-bpf")
"""A process is stopped at the calls that are traced and at no others: what is injected has to be traced too."""
TRIED = "tried"
SCRATCH = f"/{TRIED}/{invariants.SCRATCH}/"
KILL = "signal=SIGKILL"
FULL = ("write", "pwrite64", "mkdir", "mkdirat", "openat", "fsync", "syncfs", "rename", "renameat", "link", "linkat")
ERRORS = {
    "ENOSPC": FULL,
    "EDQUOT": FULL,
    "EIO": ("write", "pwrite64", "fsync", "syncfs", "rename", "renameat", "unlink", "rmdir", "ftruncate", "linkat"),
    "EACCES": ("openat", "mkdir", "mkdirat", "rename", "renameat", "unlinkat"),
    "ENOLCK": ("flock",),
}
_LINE = re.compile(r"(\d+) +(\w+)\(")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>")
_FIRST = re.compile(r"\w+\((?:(\d+|AT_FDCWD)<([^>]*)>)?(?:, )?(?:\"([^\"]*)\")?")


def missing() -> str:
    """Why nothing can be injected here; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.run([*STRACE, "-e", "trace=getppid", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "strace may not trace here"


def injecting(call: str, fault: str, *, log: Path = Path("/dev/null"), at: Path | None = None) -> list[str]:
    """What stands before a command for `fault` to happen at `call`; only for a file `at` that path, where one is given.

    With a filter strace injects errors and, as of 6.1, no signals.
    """
    strace = STRACE[:-1] if fault.startswith("signal") else STRACE
    only = ["-P", str(at)] if at else []
    return [*strace, "-y", *only, "-o", str(log), "-e", f"trace={call}", "-e", f"inject={call}:{fault}"]


@dataclass(frozen=True, slots=True)
class Point:
    """A call of the traced run, and what happens at it."""

    call: str
    number: int
    """Of this call in its thread, from 1."""
    fault: str
    what: str = ""
    """What it was about in the traced run: a path, or `stdout` and `stderr`."""
    at: Path | None = None
    """Below the environment; calls for other files are not counted."""

    @property
    def when(self) -> str:
        return f"{self.fault}:when={self.number}"


@dataclass(frozen=True, slots=True)
class Base:
    """What there is before the command, and what the command makes of it."""

    place: Path
    trace: Path
    old: Looked
    new: Looked


@dataclass(frozen=True, slots=True)
class Sweep:
    """One trial, below a folder."""

    folder: Path
    trial: Trial
    broken: str = ""
    """Code that changes the tool beforehand."""

    def base(self) -> Base:
        """The environment before the command; made where it is tried, because a scope is a path. And a run of it."""
        place = self._place
        place.mkdir()
        invariants.surroundings(place)
        self.trial.prepare(Tool(place / PROJECT))
        place = place.rename(self.folder / self.trial.name)
        trace = self.folder / f"{self.trial.name}.strace"
        with self._fresh(place) as tool:
            watched = f"trace={','.join([*CALLS, 'syncfs'])}"
            done = self._run(tool, [*STRACE, "-y", "-o", str(trace), "-e", watched])
            assert done.returncode == 0, done.stderr
            new = look(self._place, PROJECT)
        return Base(place, trace, look(place, PROJECT), new)

    def points(self, base: Base, faults: Sequence[str]) -> list[Point]:
        """Every call of interest from the first one on that writes, with each of `faults` (KILL, names of errors)."""
        calls = _calls(base.trace.read_text(errors="replace").splitlines(), self.trial.mark)
        known = {(call, number): what for call, number, what in calls}
        return [
            Point(call, number, KILL if fault == KILL else f"error={fault}", what)
            for (call, number), what in known.items()
            for fault in faults
            if fault == KILL or call in ERRORS[fault]
        ]

    def tried(self, base: Base, point: Point) -> Iterator[Finding]:
        ended, problem = self.ended(base, point)
        if problem:
            fault = f"{point.call}:{point.when} ({', '.join(ended.hit) or point.what})"
            yield Finding(self.trial.name, fault, f"exit {ended.code}", problem)

    def ended(self, base: Base, point: Point) -> tuple[Ended, str]:
        """How a run ended with that, and what did not hold; empty when everything did."""
        log = self.folder / "injected.strace"
        with self._fresh(base.place) as tool:
            at = self._place / point.at if point.at else None
            told = len(invariants.events(tool.root))
            done = self._run(tool, injecting(point.call, point.when, log=log, at=at))
            hit = tuple(_injected(log.read_text(errors="replace").splitlines()))
            events = tuple(invariants.events(tool.root)[told:])
            ended = Ended(done.returncode, done.stdout, done.stderr, events, point.fault.rpartition("=")[2], hit)
            return ended, self._broken(base, tool, ended)

    def _broken(self, base: Base, tool: Tool, ended: Ended) -> str:
        """At once, and after what the trial itself looks at: the ways out, and the next run."""
        if problem := self._said(base, tool, ended):
            return problem
        try:
            problem = self.trial.check(tool, ended.code == 0)
        except (AssertionError, OSError, ValueError) as error:
            return str(error)
        return problem or (self._neither(base) if self.trial.replaces else "")

    def _said(self, base: Base, tool: Tool, ended: Ended) -> str:
        if problem := invariants.untrue(self.trial.command, ended):
            return problem
        if left := invariants.left(tool.project, ended):
            return f"left by a run that ended by itself: {left}"
        return "" if self.trial.replaces else changed(base.old, look(self._place, PROJECT))

    def _neither(self, base: Base) -> str:
        """Neither old nor new, to the bit."""
        old, new, now = (live(looked, PROJECT) for looked in (base.old, base.new, look(self._place, PROJECT)))
        return "" if now in (old, new) else f"old: {changed(old, now)}; new: {changed(new, now)}"

    def _run(self, tool: Tool, tracer: list[str]) -> subprocess.CompletedProcess[str]:
        argv, env = tool.argv(self.trial.command), invariants.environment(self._place)
        return subprocess.run([*tracer, *argv], capture_output=True, text=True, check=False, env=env)

    def _fresh(self, base: Path) -> _Fresh:
        return _Fresh(base, self._place, self.trial.before, self.broken)

    @property
    def _place(self) -> Path:
        return self.folder / TRIED


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A copy of the environment, times and all, for one run."""

    base: Path
    place: Path
    before: tuple[str, ...]
    broken: str

    def __enter__(self) -> Tool:
        subprocess.run(["cp", "-a", "--reflink=auto", self.base, self.place], check=True)
        tool = Tool(self.place / PROJECT, self.broken)
        if self.before:
            tool.must(*self.before)
        return tool

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.place)


def _calls(lines: Sequence[str], mark: str) -> Iterator[tuple[str, int, str]]:
    """(call, its number in its thread, what it is about) from the first line on that names `mark`.

    Not those with a number that the first thread has had by then: it would be hit while Python starts.
    """
    numbers: Counter[tuple[str, str]] = Counter()
    before: Counter[str] = Counter()
    begun, first = False, ""
    for line in lines:
        if found := _LINE.match(line):
            thread, call = found.groups()
            first = first or thread
            begun = begun or mark in line
            if not begun and thread == first:
                before[call] += 1
            numbers[thread, call] += 1
            if begun and numbers[thread, call] > before[call] and not (call == "openat" and "O_CREAT" not in line):
                yield call, numbers[thread, call], _about(line)


def _injected(lines: Sequence[str]) -> Iterator[str]:
    """What the calls were about that were made to fail."""
    begun: dict[str, str] = {}
    for line in lines:
        if found := _LINE.match(line):
            begun[found[1]] = line
        elif found := _RESUMED.match(line):
            line = begun.get(found[1], line)
        if found and "(INJECTED)" in line:
            yield _about(line)


def _about(line: str) -> str:
    """The path in a line of strace -y; the new name of a renaming is not it."""
    call = _LINE.match(line)
    found = _FIRST.search(line, call.start(2)) if call else None
    if not call or not found:
        return ""
    fd, path, name = found.groups()
    if call[2] in ("write", "pwrite64"):
        return {"1": "stdout", "2": "stderr"}.get(fd, path or "")
    read = invariants.READ if call[2] == "openat" and "O_CREAT" not in line else ""
    return f"{Path(path or '', name or '')}{read}"


def thinned(points: Sequence[Point], count: int) -> list[Point]:
    """So many of them, evenly: the first and the last are among them."""
    if len(points) <= count:
        return list(points)
    return [points[i * (len(points) - 1) // (count - 1)] for i in range(count)]


def of_each_kind(points: Sequence[Point]) -> list[Point]:
    """Of every call, the one in the middle is killed, and fails: with another error from call to call.

    What is only said, and Python's own look at TMPDIR, only where there is nothing else.
    """
    chosen: list[Point] = []
    for turn, call in enumerate(dict.fromkeys(point.call for point in points)):
        of_it = [point for point in points if point.call == call]
        here = [point for point in of_it if "/" in point.what and SCRATCH not in point.what] or of_it
        errors = list(dict.fromkeys(point.fault for point in here if point.fault != KILL))
        for fault in (KILL, *errors[turn % len(errors) :][:1]) if errors else (KILL,):
            some = [point for point in here if point.fault == fault]
            chosen.append(some[len(some) // 2])
    return chosen
