"""Break each promise on purpose, one at a time (mutations.toml), and see that a test goes red.

A test counts only when it is green on the code as it is, and says FAILED on the broken one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = "docmind_backup"
LIST = Path(__file__).with_suffix(".toml")
AT_ONCE = 2
FEW = 8
"""Tests that one process is through with before others have started."""
LIMIT_S, WHOLE_S = 300, 3600
"""What a broken tool makes its tests wait for at most, and how long all tests together may take as it is."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of one module, and the tests that see it."""

    name: str
    """What the tool does wrong, in a sentence."""
    invariant: int
    """Of docs/design.md."""
    module: str
    """Below the package."""
    old: str
    """There exactly once."""
    new: str
    tests: tuple[str, ...]
    """Node ids below tests/, each of which is enough."""

    def applied(self, text: str) -> str:
        """The broken module. ValueError when its place is not there exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(f"its place is there {text.count(self.old)} times in {self.module}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What trying a mutation came to: seen by a test, or why not."""

    mutation: Mutation
    by: str = ""
    """The test that went red."""
    skipped: str = ""
    """Why its tests could not run here."""
    problem: str = ""

    @property
    def how(self) -> str:
        return self.by or self.skipped or self.problem

    @property
    def word(self) -> str:
        return "seen" if self.by else "skipped" if self.skipped else "UNSEEN"


def mutations(match: str = "") -> tuple[Mutation, ...]:
    """Those whose name contains `match`, in the order of the list."""
    listed: dict[str, Any] = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return tuple(
        Mutation(name, **{**row, "tests": tuple(row["tests"])}) for name, row in listed.items() if match in name
    )


def listed() -> str:
    """The table of docs/reliability.md, by invariant."""
    rows = [
        f"| {m.invariant} | {m.name} | `{m.module}` | {', '.join(f'`{test}`' for test in m.tests)} |"
        for m in sorted(mutations(), key=lambda mutation: mutation.invariant)
    ]
    return "\n".join(["| invariant | what is broken | in | seen by |", "|---|---|---|---|", *rows])


def report(folder: Path, match: str = "", *, few: bool = False) -> int:
    """Try them, a line for each; how many no test saw. `folder`: room for copies of the source; `few`: the short form,
    one of each invariant."""
    chosen = mutations(match)
    if few:
        chosen = tuple({mutation.invariant: mutation for mutation in reversed(chosen)}.values())
    count = {"seen": 0, "UNSEEN": 0, "skipped": 0}
    for outcome in tried(chosen, folder):
        mutation = outcome.mutation
        print(f"mutation {outcome.word:7} {mutation.invariant:2} {mutation.name}: {outcome.how}", flush=True)
        count[outcome.word] += 1
    print(f"mutations: {count['seen']} seen, {count['UNSEEN']} unseen, {count['skipped']} skipped", flush=True)
    return count["UNSEEN"]


def tried(chosen: Sequence[Mutation], folder: Path, root: Path = ROOT) -> Iterator[Outcome]:
    """Each in turn, two at once; the tests of all of them first on the code as it is.

    `root`: of the project, with `src` and `tests`.
    """
    sound = folder / "sound"
    shutil.copytree(root / "src", sound)
    tests = {test for mutation in chosen for test in mutation.tests}
    flags = ("-n", str(AT_ONCE if len(tests) > FEW else 0))
    green = _pytest(root, sound, tests, *flags, limit_s=WHOLE_S)
    if green.code not in (0, 1):
        yield from (Outcome(mutation, problem=f"as it is: {green}") for mutation in chosen)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        one = partial(_tried, root=root, sound=sound, red=green.red)
        yield from pool.map(one, chosen, (folder / str(number) for number in range(len(chosen))))


def _tried(mutation: Mutation, source: Path, *, root: Path, sound: Path, red: Iterable[str]) -> Outcome:
    """`red`: tests that fail on the sound code too; they say nothing."""
    shutil.copytree(sound, source)
    path = source / PACKAGE / mutation.module
    try:
        path.write_text(mutation.applied(path.read_text(encoding="utf-8")), encoding="utf-8")
    except ValueError as error:
        return Outcome(mutation, problem=str(error))
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):  # of the same second, it would be believed
        compiled.unlink()
    ran = _pytest(root, source, mutation.tests, "-n", "0", "-x", *(f"--deselect={test}" for test in red))
    shutil.rmtree(source)
    if ran.code == 1 and ran.red:
        return Outcome(mutation, by=ran.red[0].removeprefix("tests/"))
    if ran.code == 0 and ran.skipped and not ran.passed:
        return Outcome(mutation, skipped=ran.skipped)
    return Outcome(mutation, problem=str(ran))


@dataclass(frozen=True, slots=True)
class _Ran:
    """What pytest said."""

    code: int
    said: str

    @property
    def red(self) -> tuple[str, ...]:
        """Tests that failed; those that could not begin are not among them."""
        return tuple(re.findall(r"^FAILED (.+?)(?: - .*)?$", self.said, re.MULTILINE))

    @property
    def passed(self) -> bool:
        return re.search(r"^.*\b\d+ passed", self.said, re.MULTILINE) is not None

    @property
    def skipped(self) -> str:
        """The reason of the first that was."""
        found = re.search(r"^SKIPPED \[\d+\] [^ ]+: (.*)$", self.said, re.MULTILINE)
        return found[1] if found else ""

    def __str__(self) -> str:
        lines = [line for line in self.said.splitlines() if line.strip()]
        words = {-9: "it did not end", 5: "no test ran"}.get(self.code, f"pytest ended with {self.code}")
        return f"{words}: {' | '.join(lines[-3:])}"


def _pytest(root: Path, source: Path, tests: Iterable[str], *flags: str, limit_s: float = LIMIT_S) -> _Ran:
    """Run them against the package in `source`; ended with all that they started when they take too long."""
    scratch = source.with_name(f"{source.name}-tests")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-ra",
        "--tb=no",
        f"--basetemp={scratch}",
        *flags,
        *(f"tests/{test}" for test in sorted(tests)),
    ]
    shell = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    env = {**shell, "PYTHONPATH": str(source), "COLUMNS": "500"}
    with subprocess.Popen(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as running:
        try:
            said = running.communicate(timeout=limit_s)[0]
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            said = running.communicate()[0]
    shutil.rmtree(scratch, ignore_errors=True)
    return _Ran(running.returncode, said)
