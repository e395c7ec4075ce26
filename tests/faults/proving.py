"""Every row of the catalogue, tried by its tests: one run of pytest, one table."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tests.faults.rows import TESTS, Row, read, unknown

PROCESSES = 2


class Came(StrEnum):
    """What a test came to."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    came: Came
    reason: str = ""
    """Why it was skipped."""


Outcomes = Mapping[str, Outcome]
"""By the name that pytest gives a test, below tests/, with its parameters."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one row."""

    row: Row
    passed: int = 0
    failed: tuple[str, ...] = ()
    """Tests that failed; and what is named and was not run, with the reason."""
    skipped: tuple[str, ...] = ()
    """The reasons, each once."""
    left_out: int = 0
    """Tests that were skipped."""

    @property
    def came(self) -> Came:
        if self.failed:
            return Came.FAILED
        return Came.PASSED if self.passed else Came.SKIPPED


def prove(folder: Path, letters: Collection[str] = ()) -> int:
    """Run what the rows name, in `folder`; of `letters` (A, C3) only, where any are given. How many rows failed."""
    chosen = [row for row in read() if not letters or row.id in letters or row.id[0] in letters]
    absent = unknown(chosen)
    began = time.monotonic()
    named = {test for row in chosen for test in row.tests} - absent.keys()
    outcomes = _run(smallest(named), folder / "pytest") if named else {}
    tried = [judged(row, outcomes, absent) for row in chosen]
    _show(tried, len(outcomes), time.monotonic() - began)
    return sum(one.came is Came.FAILED for one in tried)


def smallest(named: Iterable[str]) -> list[str]:
    """The same tests, none of them twice."""
    names = set(named)
    return sorted(name for name in names if "::" not in name or name.partition("::")[0] not in names)


def judged(row: Row, outcomes: Outcomes, absent: Mapping[str, str]) -> Tried:
    """A test that was not run is as bad as one that failed."""
    if row.skip:
        return Tried(row, skipped=(row.skip,))
    found = {name: _of(name, outcomes) for name in row.tests}
    every = {test: outcome for tests in found.values() for test, outcome in tests.items()}
    missing = [f"{name} ({absent.get(name, 'was not run')})" for name, tests in found.items() if not tests]
    failed = [test for test, outcome in every.items() if outcome.came is Came.FAILED]
    reasons = [outcome.reason for outcome in every.values() if outcome.came is Came.SKIPPED]
    passed = sum(outcome.came is Came.PASSED for outcome in every.values())
    return Tried(row, passed, (*missing, *failed), tuple(dict.fromkeys(reasons)), len(reasons))


def _of(name: str, outcomes: Outcomes) -> dict[str, Outcome]:
    """The tests that a name stands for: a file, a function with all of its parameters."""
    return {
        test: outcome
        for test, outcome in outcomes.items()
        if test.partition("[")[0] == name or ("::" not in name and test.partition("::")[0] == name)
    }


# -- pytest --------------------------------------------------------------------------------------


@dataclass
class _Heard:
    """A plugin that remembers what each test came to; its worst phase counts."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.removeprefix("tests/")
        if report.failed:
            self.outcomes[name] = Outcome(Came.FAILED)
        elif report.skipped:
            self.outcomes.setdefault(name, Outcome(Came.SKIPPED, _reason(report)))
        elif report.when == "call":
            self.outcomes.setdefault(name, Outcome(Came.PASSED))


def _reason(report: pytest.TestReport) -> str:
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail"
    return said.removeprefix("Skipped: ")


def _run(names: Sequence[str], place: Path) -> Outcomes:
    """What pytest has to say goes to stderr. `rm` knows folders deeper than Python can recurse."""
    heard = _Heard()
    options = ["-q", "-n", str(PROCESSES), "--rootdir", str(TESTS.parent), "--basetemp", str(place)]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the harness has imported what pytest rewrites
    with redirect_stdout(sys.stderr):
        pytest.main([*options, *(str(TESTS / name) for name in names)], plugins=[heard])
    subprocess.run(["rm", "-rf", place], check=False)
    return heard.outcomes


# -- the table -----------------------------------------------------------------------------------


def _show(tried: Sequence[Tried], tests: int, seconds: float) -> None:
    """Not a terminal: as wide as it needs, so that no line is folded."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1_000)
    with console.capture() as capture:
        console.print(_table(tried))
    print(*(line.rstrip() for line in capture.get().splitlines()), sep="\n")
    rows = {came: sum(one.came is came for one in tried) for came in Came}
    counts = ", ".join(f"{number} {came}" for came, number in rows.items())
    print(f"{len(tried)} rows: {counts}; {tests} tests in {seconds:.0f} s", flush=True)


def _table(tried: Sequence[Tried]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Row", no_wrap=True)
    table.add_column("Fault", overflow="fold")
    for heading in ("Tests", "Passed", "Failed", "Skipped"):
        table.add_column(heading, justify="right")
    table.add_column("Result", overflow="fold")
    for one in tried:
        failed = len(one.failed)
        numbers = (one.passed + failed + one.left_out, one.passed, failed, one.left_out)
        table.add_row(
            one.row.id, Text(one.row.fault), *(f"{number}" if number else "" for number in numbers), _said(one)
        )
    return table


def _said(one: Tried) -> Text:
    match one.came:
        case Came.FAILED:
            return Text(f"FAILED: {', '.join(one.failed)}", style="red")
        case Came.SKIPPED:
            return Text(f"skipped: {'; '.join(one.skipped)}", style="dim")
        case _:
            return Text("passed" + (f"; skipped: {'; '.join(one.skipped)}" if one.skipped else ""))
