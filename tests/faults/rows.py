"""The catalogue of faults: a file for each letter, a table for each row; what is no row of it is refused. Runs nothing.

`tests` are names below tests/, as pytest has them and without parameters; `sweeps` are lines of `python -m
tests.faults` that try the row at more points than a test does.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "catalogue"
KINDS = ("catalogue", "power", "kill", "errors", "fuzz", "mutations")
"""What `python -m tests.faults` can be told to do."""
LETTERS = {"A": 12, "B": 12, "C": 12, "D": 11, "E": 12, "F": 7, "G": 11, "H": 9, "I": 11}
"""Of the list: the last row of each letter."""


@dataclass(frozen=True, slots=True)
class Row:
    """One fault."""

    id: str
    fault: str
    expected: str = ""
    tests: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    skip: str = ""
    """Why it does not apply here."""
    note: str = ""


KEYS = tuple(field.name for field in fields(Row) if field.name != "id")


def every_id() -> list[str]:
    """In the order of the list."""
    return [f"{letter}{number}" for letter in LETTERS for number in range(1, LETTERS[letter] + 1)]


def read(folder: Path = FOLDER) -> tuple[Row, ...]:
    """All rows, in the order of the list. ValueError names the file and what is wrong with it."""
    found = [row for path in sorted(folder.glob("*.toml")) for row in _rows(path)]
    return tuple(sorted(found, key=lambda row: (row.id[0], int(row.id[1:]))))


def _rows(path: Path) -> Iterator[Row]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from error
    for name, table in tables.items():
        if problem := _problem(path, name, table):
            raise ValueError(f"{path.name}: [{name}] {problem}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        yield Row(name, **values)


def _problem(path: Path, name: str, table: Any) -> str:
    """What makes it no row; empty when it is one."""
    letter, number = name[:1], name[1:]
    if letter.lower() != path.stem or not number.isdigit() or not 1 <= int(number) <= LETTERS.get(letter, 0):
        return "is no row of this letter"
    if not isinstance(table, Mapping):
        return "is not a table"
    for key, value in table.items():
        if key not in KEYS:
            return f"has an unknown key {key!r}"
        if key in ("tests", "sweeps") and not (isinstance(value, list) and value and all(map(_word, value))):
            return f"{key} has to be a list of texts"
        if key not in ("tests", "sweeps") and not _word(value):
            return f"{key} has to be a text"
    if "fault" not in table:
        return "says no fault"
    if ("skip" in table) == ("tests" in table):
        return "has to have either tests or the reason why it is skipped"
    return "says not what is expected" if "tests" in table and "expected" not in table else ""


def _word(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


# -- the tests they name -------------------------------------------------------------------------


def unknown(rows: Iterable[Row], tests: Path = TESTS) -> dict[str, str]:
    """What rows name and is no test, with the reason."""
    named = {test for row in rows for test in row.tests}
    return {test: reason for test in sorted(named) if (reason := _unknown(test, tests))}


def _unknown(test: str, tests: Path) -> str:
    file, _, inside = test.partition("::")
    if not (tests / file).is_file():
        return "no such file"
    if "[" in inside:
        return "named with parameters"
    if inside and inside not in _inside(tests / file):
        return "no such test"
    return "" if inside or _inside(tests / file) else "no test in it"


@cache
def _inside(path: Path) -> frozenset[str]:
    """Names of the tests in a file: `test_x`, `TestY::test_x`."""
    return frozenset(_test_names(ast.parse(path.read_bytes()).body, ""))


def _test_names(body: Iterable[ast.stmt], within: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield within + node.name
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _test_names(node.body, f"{within}{node.name}::")
        elif isinstance(node, ast.If):
            yield from _test_names(node.body, within)
