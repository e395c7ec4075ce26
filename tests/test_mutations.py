"""The list of broken promises can be tried, and a mutation counts as seen only when it is the reason for the red."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.faults.mutations import PACKAGE, ROOT, Mutation, mutations, tried

EVERY = mutations()


@pytest.mark.parametrize("mutation", EVERY, ids=lambda mutation: mutation.name)
def test_a_mutation_has_its_place_and_its_tests(mutation: Mutation) -> None:
    """Code that moves takes its mutations along."""
    path = ROOT / "src" / PACKAGE / mutation.module
    compile(mutation.applied(path.read_text(encoding="utf-8")), mutation.module, "exec")
    for test in mutation.tests:
        file, *_, name = test.split("::")
        code = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *def {name.partition('[')[0]}\(", code, re.MULTILINE), test


def test_every_invariant_is_broken() -> None:
    numbered = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert {mutation.invariant for mutation in EVERY} == set(map(int, numbered)) == set(range(1, 12))


TESTS = """
import pytest
from docmind_backup.thing import promise

@pytest.fixture
def needs_it():
    assert promise() == 1

def test_kept():
    assert promise() == 1

def test_on_top_of_it(needs_it):
    pass

def test_red_anyway():
    assert promise() == 3

def test_elsewhere():
    pytest.skip("there is no such disk here")
"""
THING = Mutation("broken", 1, "thing.py", "return 1", "return 2", ("test_thing.py::test_kept",))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one promise."""
    for folder in ("tests", f"src/{PACKAGE}"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tests" / "test_thing.py").write_text(TESTS)
    (tmp_path / "src" / PACKAGE / "__init__.py").touch()
    (tmp_path / "src" / PACKAGE / "thing.py").write_text("def promise():\n    return 1\n")
    return tmp_path


def test_only_a_test_that_was_green_and_is_red_sees_a_mutation(project: Path, tmp_path: Path) -> None:
    told = {
        "seen": (THING, "test_thing.py::test_kept"),
        "skipped": (replace(THING, tests=("test_thing.py::test_elsewhere",)), "there is no such disk here"),
        "harmless": (replace(THING, new="return 1 + 0"), "1 passed"),
        "moved": (replace(THING, old="return 0"), "its place is there 0 times"),
        "no module": (replace(THING, new="return ]"), "pytest ended with 4"),
        "no beginning": (replace(THING, tests=("test_thing.py::test_on_top_of_it",)), "pytest ended with 1"),
        "red anyway": (replace(THING, tests=("test_thing.py::test_red_anyway",)), "no test ran"),
    }

    found = dict(zip(told, tried([mutation for mutation, _ in told.values()], tmp_path, project), strict=True))

    words = {name: outcome.word for name, outcome in found.items()}
    assert words == {**dict.fromkeys(told, "UNSEEN"), "seen": "seen", "skipped": "skipped"}
    for name, (_, how) in told.items():
        assert how in found[name].how


def test_a_test_that_is_not_there_is_said_before_anything_is_tried(project: Path, tmp_path: Path) -> None:
    (outcome,) = tried([replace(THING, tests=("test_thing.py::test_nothing",))], tmp_path, project)

    assert outcome.problem.startswith("as it is: pytest ended with 4")
