"""The command: `python -m tests.bench --work DIR`. The table goes to stdout, what is being done to stderr."""

from __future__ import annotations

import argparse
import compileall
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench import report
from tests.bench.measure import BenchError
from tests.bench.rows import EXPERIMENTS, RUNS, Bench, Experiment, Line

import docmind_backup


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything measured; 1: a result was wrong or a row failed. A target that is not met is no failure."""
    given = _parse(arguments)
    if given.list:
        for experiment in EXPERIMENTS:
            print(f"{experiment.name:12} {experiment.about}{' (--large)' if experiment.large else ''}")
        return 0
    compileall.compile_dir(Path(docmind_backup.__file__).parent, quiet=2)
    given.work.mkdir(parents=True, exist_ok=True)
    out = given.work.resolve() / f"{RUNS}{time.time_ns()}"
    out.mkdir()
    bench = Bench(given.work.resolve(), out, given.tmpfs, given.runs, given.quick)
    try:
        return _measured(bench, _chosen(given), given.json)
    finally:
        if not given.keep:
            shutil.rmtree(out)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure docmind-backup and its peers.")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="made work is kept here between runs")
    parser.add_argument("--only", default="", help="rows, with commas between (see --list)")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each contender (default 5)")
    parser.add_argument("--large", action="store_true", help="also the rows of a million files and of 50 GB")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: to try the bench itself, figures mean nothing"
    )
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="a folder in memory (default /dev/shm)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write everything measured to this file")
    parser.add_argument("--keep", action="store_true", help="do not remove what the contenders wrote")
    parser.add_argument("--list", action="store_true", help="name the rows")
    given = parser.parse_args(arguments)
    known = {experiment.name for experiment in EXPERIMENTS}
    if unknown := set(filter(None, given.only.split(","))) - known:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if given.runs < 1:
        parser.error("--runs is at least 1")
    return given


def _chosen(given: argparse.Namespace) -> list[Experiment]:
    if names := set(filter(None, given.only.split(","))):
        return [experiment for experiment in EXPERIMENTS if experiment.name in names]
    return [experiment for experiment in EXPERIMENTS if given.large or not experiment.large]


def _measured(bench: Bench, experiments: Sequence[Experiment], json_file: Path | None) -> int:
    about = report.about(bench)
    lines, failed = list[Line](), False
    for experiment in experiments:
        print(f"{experiment.name}: {experiment.about}", file=sys.stderr, flush=True)
        try:
            lines += experiment.measure(bench)
        except (BenchError, OSError, subprocess.CalledProcessError) as error:
            print(f"  failed: {error}", file=sys.stderr, flush=True)
            lines.append(Line(experiment.about, "-", None, note=f"failed: {error}".splitlines()[0]))
            failed = True
    print(report.markdown(about, lines))
    if json_file:
        document = {"about": about, "lines": [{**asdict(line), "verdict": line.verdict} for line in lines]}
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was written goes then too
    sys.exit(main())
