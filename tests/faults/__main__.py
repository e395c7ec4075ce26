"""The command: `python -m tests.faults`. A table of the catalogue, a line a sweep; exit 1 when any promise broke."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.faults import disk, fuzz, fuzz_state, mutations, power, proving, strace
from tests.faults.rows import KINDS
from tests.faults.trials import TRIALS, Finding, Trial

EACH = 10
"""So many cuts in one run of a command."""
SHORT = {"cuts": 30, "points": 60, "cases": 2000}
FULL = {"cuts": 200, "points": 0, "cases": 100_000}


def main() -> int:
    given = _parse()
    if given.list:
        print(mutations.listed())
        return 0
    trials = [trial for trial in TRIALS if trial.name in given.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="docmind-faults-") as folder:
        rows = [*_rows(given, trials, Path(folder))]
    return 1 if any(rows) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Make it go wrong, see what holds.")
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; all when none is named")
    parser.add_argument("--full", action="store_true", help="all of it, not the short form: many hours")
    parser.add_argument("--rows", default="", help="letters or rows of the catalogue, with commas between: A,C3")
    parser.add_argument("--only", default=",".join(t.name for t in TRIALS), help="commands, with commas between")
    parser.add_argument("--fs", default=",".join(disk.SIZE), help="file systems of the power cuts")
    parser.add_argument("--cuts", type=int, help="power cuts for each file system and command (30; full: 200)")
    parser.add_argument("--points", type=int, help="calls for each command (60); 0: every one (full)")
    parser.add_argument("--cases", type=int, help="tampered records, inventories and manifests (2000; full: 100000)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--match", default="", metavar="TEXT", help="only the mutations with this in their name")
    parser.add_argument(
        "--list", action="store_true", help="show the mutations as docs/reliability.md has them; no more"
    )
    parser.add_argument("--without-flush", action="store_true", help="break the tool: the power cuts must find it")
    given = parser.parse_args()
    for kind in set(given.kinds) - set(KINDS):
        parser.error(f"there is no {kind}: {', '.join(KINDS)}")
    for name, number in (FULL if given.full else SHORT).items():
        if getattr(given, name) is None:
            setattr(given, name, number)
    return given


def _rows(given: argparse.Namespace, trials: list[Trial], folder: Path) -> Iterator[int]:
    """How many promises broke, row by row."""
    kinds = given.kinds or KINDS
    if "catalogue" in kinds:
        if given.full:
            os.environ["DOCMIND_TEST_SWEEPS"] = "full"
        yield proving.prove(folder, [word for word in given.rows.split(",") if word])
    if "power" in kinds:
        yield from _power(given, trials, folder)
    for kind, faults in (("kill", [strace.KILL]), ("errors", [*strace.ERRORS])):
        if kind in kinds:
            for trial in trials:
                yield _swept(kind, trial, faults, given.points, folder)
    if "fuzz" in kinds:
        yield _fuzzed(given, folder)
    if "mutations" in kinds:
        yield mutations.report(folder, given.match, few=not (given.full or given.kinds))


def _power(given: argparse.Namespace, trials: list[Trial], folder: Path) -> Iterator[int]:
    fs = given.fs.split(",")
    if problem := disk.missing(*fs):
        print(f"power  skipped: {problem}")
        return
    with disk.host(folder) as place:
        for kind in fs:
            bed = power.Bed(place, kind, power.WITHOUT_FLUSH if given.without_flush else "")
            for trial in trials:
                yield _cut(bed, trial, given)


def _cut(bed: power.Bed, trial: Trial, given: argparse.Namespace) -> int:
    base = bed.base(trial)
    seeds = range(given.seed, given.seed + max(1, -(-given.cuts // EACH)))
    broken = _told(finding for seed in seeds for finding in bed.cut(trial, base, seed, EACH))
    base.unlink()
    print(
        f"power  {trial.name:8} {bed.kind:6} {len(seeds):5} runs of up to {EACH + 1} cuts, {broken} failed", flush=True
    )
    return broken


def _swept(kind: str, trial: Trial, faults: list[str], count: int, folder: Path) -> int:
    if problem := strace.missing():
        print(f"{kind:6} skipped: {problem}")
        return 0
    place = folder / f"{kind}-{trial.name}"
    place.mkdir()
    sweep = strace.Sweep(place, trial)
    base = sweep.base()
    every = sweep.points(base, faults)
    points = strace.thinned(every, count) if count else every
    broken = _told(finding for point in points for finding in sweep.tried(base, point))
    print(f"{kind:6} {trial.name:8} {len(points):5} of {len(every)} calls, {broken} failed", flush=True)
    return broken


def _fuzzed(given: argparse.Namespace, folder: Path) -> int:
    """Half of them the files of a backup, in which each case reads the whole of it; half what lies beside and comes
    from others. A process each."""
    seeds = range(given.seed, given.seed + given.cases)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        halves = [
            pool.submit(one.cases, folder / one.__name__, seeds[i::2]) for i, one in enumerate((fuzz, fuzz_state))
        ]
        broken = _told(finding for half in halves for finding in half.result())
    print(f"fuzz   {given.cases} cases, seeds from {given.seed}: {broken} failed", flush=True)
    return broken


def _told(findings: Iterable[Finding]) -> int:
    """Each as it is found; how many."""
    number = 0
    for number, finding in enumerate(findings, 1):  # noqa: B007 - the last one counts them
        print(f"FAILED {finding}", file=sys.stderr, flush=True)
    return number


if __name__ == "__main__":
    sys.exit(main())
