"""The catalogue of faults is whole: every row of the list, each with tests that exist or the reason why it has none."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults import mutations
from tests.faults.proving import Came, Outcome, judged, smallest
from tests.faults.rows import FOLDER, KINDS, LETTERS, Row, every_id, read, unknown
from tests.faults.trials import TRIALS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
ROW = '[C1]\nfault = "x"\nexpected = "y"\ntests = ["a.py"]\n'


def test_every_row_is_there_once() -> None:
    """In a file of TOML no table stands twice."""
    assert [row.id for row in read()] == every_id()


def test_every_file_is_of_a_letter() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {letter.lower() for letter in LETTERS}


def test_every_test_that_a_row_names_exists() -> None:
    assert unknown(read()) == {}


def test_every_sweep_that_a_row_names_can_be_run() -> None:
    names = {trial.name for trial in TRIALS}
    lines = [(row.id, line.split()) for row in read() for line in row.sweeps]

    assert [(row, words) for row, words in lines if words[0] not in KINDS] == []
    assert [
        (row, words) for row, words in lines for word in words[1:2] if not {word, word[:2]} & (names | {"--"})
    ] == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[C13]\n", "no row of this letter"),
        ("[D1]\n", "no row of this letter"),
        ("[C]\n", "no row of this letter"),
        ("C1 = 3\n", "not a table"),
        (ROW + "[C1]\n", "Cannot declare"),
        ('[C1]\nfualt = "x"\n', "unknown key 'fualt'"),
        ('[C1]\nfault = "x"\nexpected = "y"\n', "either tests or the reason"),
        (ROW + 'skip = "why"\n', "either tests or the reason"),
        ('[C1]\nfault = "x"\ntests = ["a.py"]\n', "what is expected"),
        (ROW.replace('["a.py"]', '"a.py"'), "list of texts"),
        (ROW.replace('["a.py"]', "[]"), "list of texts"),
        ('[C1]\nskip = "why"\n', "says no fault"),
        ('[C1]\nfault = "x"\nskip = " "\n', "has to be a text"),
    ],
)
def test_what_is_no_row_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "c.toml").write_text(text)

    with pytest.raises(ValueError, match=rf"c\.toml: .*{re.escape(problem)}"):
        read(tmp_path)


def test_a_name_that_is_no_test_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def test_one(): ...\nclass TestTwo:\n    def test_three(self): ...\n")
    (tmp_path / "b.py").write_text("def helper(): ...\n")
    names = ("a.py", "a.py::test_one", "a.py::TestTwo::test_three")
    wrong = ("a.py::test_three", "a.py::test_one[x]", "b.py", "c.py::test_one")

    assert sorted(unknown([Row("C1", "x", tests=(*names, *wrong))], tmp_path)) == sorted(wrong)


PASSED, FAILED, SKIPPED = Outcome(Came.PASSED), Outcome(Came.FAILED), Outcome(Came.SKIPPED, "no strace")


@pytest.mark.parametrize(
    ("tests", "outcomes", "came", "failed"),
    [
        (("a.py::test_x",), {"a.py::test_x[1]": PASSED, "a.py::test_x[2]": SKIPPED}, Came.PASSED, ()),
        (("a.py",), {"a.py::test_x": PASSED, "a.py::test_y": FAILED}, Came.FAILED, ("a.py::test_y",)),
        (("a.py::test_x",), {"a.py::test_x": SKIPPED, "a.py::test_xy": PASSED}, Came.SKIPPED, ()),
        (("a.py", "b.py::test_z"), {"a.py::test_x": PASSED}, Came.FAILED, ("b.py::test_z (was not run)",)),
        (("a.py::test_q",), {"a.py::test_x": PASSED}, Came.FAILED, ("a.py::test_q (no such test)",)),
    ],
)
def test_a_row_is_what_its_tests_came_to(
    tests: tuple[str, ...], outcomes: dict[str, Outcome], came: Came, failed: tuple[str, ...]
) -> None:
    tried = judged(Row("C1", "x", "y", tests), outcomes, {"a.py::test_q": "no such test"})

    assert (tried.came, tried.failed) == (came, failed)


def test_no_test_is_run_twice() -> None:
    assert smallest(["a.py::test_x", "b.py::test_y", "a.py", "b.py::test_y"]) == ["a.py", "b.py::test_y"]


def test_one_command_tries_rows_and_shows_them() -> None:
    """A row with tests of the quickest kind, and one without."""
    command = [sys.executable, "-m", "tests.faults", "catalogue", "--rows", "I9,I3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [line[-1].strip() for line in lines if line[0] == "I3"] == ["passed"]
    assert [line[-1].strip()[:9] for line in lines if line[0] == "I9"] == ["skipped: "]
    assert done.stdout.splitlines()[-1].startswith("2 rows: 1 passed, 0 failed, 1 skipped; 1 tests in ")


def test_a_kind_that_is_none_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "catlogue"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "catlogue" in done.stderr


# -- what docs/reliability.md says -----------------------------------------------------------------


def test_the_page_lists_the_mutations_there_are(request: pytest.FixtureRequest) -> None:
    """`python -m tests.faults mutations --list`; `--update-golden` writes it."""
    text, table = PAGE.read_text("utf-8"), mutations.listed()
    begin, end = text.index("| invariant | what is broken"), text.index("<!-- end of the mutations -->")
    if request.config.getoption("--update-golden"):
        text = f"{text[:begin]}{table}\n\n{text[end:]}"
        PAGE.write_text(text, "utf-8")

    assert table in text


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`((?:core/|qdrant/|standin/)?test_\w+\.py(?:::\w+)?)`", PAGE.read_text("utf-8"))

    assert named
    assert unknown([Row("A1", "the page", tests=tuple(named))]) == {}
