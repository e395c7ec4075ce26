"""Run whole processes, in rotating order, and say what they took. Deletes nothing."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOREIGN = ("DOCMIND_", "QDRANT_", "RESTIC_", "BORG_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy")


class BenchError(Exception):
    """A process failed, or what it made is wrong: its time does not count."""


@dataclass(frozen=True, slots=True)
class Command:
    """One process to be timed, start-up included."""

    argv: tuple[str, ...]
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process and those it waited for took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Largest resident set of any one of them (10^6 bytes)."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians over the runs, and how far the wall times lie apart."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    fastest_s: float
    slowest_s: float


def _nothing(_: int) -> None:
    """For a contender that has nothing to prepare or to check."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who does the work; the number is that of the run, from 0."""

    name: str
    command: Callable[[int], Command]
    prepare: Callable[[int], object] = _nothing
    """Not timed: a new folder, an empty repository."""
    check: Callable[[int], object] = _nothing
    """After all timing of its row; raises BenchError when the result is wrong."""


def plain_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The shell's own without what would change what is measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, "TZ": "UTC", "LC_ALL": "C.UTF-8", **(more or {})}


def run(command: Command, *, stdout: Path | None = None) -> Sample:
    """Time one process from its start to its end. Raises BenchError unless it exits with 0."""
    with (stdout or Path(os.devnull)).open("wb") as answer:
        began = time.perf_counter()
        process = subprocess.Popen(
            command.argv, cwd=command.cwd, env=plain_environment(command.env), stdout=answer, stderr=subprocess.PIPE
        )
        assert process.stderr
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said_last = said.decode(errors="replace").strip()[-1000:]
        raise BenchError(f"{' '.join(command.argv)[:300]}: exit {process.returncode}\n{said_last}")
    return Sample(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)


def interleave(
    contenders: Sequence[Contender], runs: int, *, before_round: Callable[[int], object] = _nothing
) -> dict[str, tuple[Sample, ...]]:
    """Each contender `runs` times, another one first in each round; checked after all timing is done."""
    taken: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    for number in range(runs):
        before_round(number)
        for contender in _rotated(contenders, number):
            contender.prepare(number)
            os.sync()
            taken[contender.name].append(run(contender.command(number)))
            print(f"    {contender.name} {taken[contender.name][-1].wall_s:.3f} s", file=sys.stderr, flush=True)
    for contender in contenders:
        for number in range(runs):
            contender.check(number)
    return {name: tuple(samples) for name, samples in taken.items()}


def _rotated(contenders: Sequence[Contender], number: int) -> Iterator[Contender]:
    first = number % len(contenders)
    yield from contenders[first:]
    yield from contenders[:first]


def summary(samples: Sequence[Sample]) -> Summary:
    walls = [sample.wall_s for sample in samples]
    return Summary(
        statistics.median(walls),
        statistics.median(sample.cpu_s for sample in samples),
        statistics.median(sample.peak_mb for sample in samples),
        min(walls),
        max(walls),
    )


def own_peak_mb() -> float:
    """No child can be seen below it: between fork and exec it is this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
