"""Whatever a process is started with: streams that are closed, full or unread, no columns, a locale without letters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.environments import DocMindV2, build_v2

CHILD = Path(__file__).with_name("surroundings_child.py")
ROOT = Path(__file__).parent.parent
NAME = "naïve ✓.pdf"
COMMANDS = {
    ("create", "--no-qdrant-snapshot"): 0,
    ("list",): 0,
    ("show",): 0,
    ("verify",): 0,
    ("prune",): 0,
    ("hold", "latest"): 0,
    ("release", "latest"): 0,
    ("leftovers",): 5,  # nobody answers
    ("show-config",): 0,
    ("restore-plan",): 0,
    ("restore", "latest"): 2,  # nobody to ask
    ("restore", "latest", "--yes", "--only", "chat"): 0,
    ("restore", "--discard-rollback", "--yes"): 0,
}
"""With the exit code of each, one after the other."""


@dataclass(frozen=True, slots=True)
class Place:
    env: DocMindV2
    folder: Path

    def run(self, ways: list[str], *commands: tuple[str, ...]) -> list[int]:
        """The exit codes; what was said is in `folder`."""
        cases = [[ways, [*words[:1], "-C", str(self.env.project), *words[1:]]] for words in commands]
        done = subprocess.run(
            [sys.executable, CHILD, json.dumps(cases)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        codes: list[int] = json.loads(done.stdout)
        return codes

    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.iterdir()))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    env = build_v2(tmp_path / "docmind", analytics=False)
    (env.uploads / NAME).write_bytes(b"%PDF")
    folder = tmp_path / "said"
    folder.mkdir()
    return Place(env, folder)


@pytest.mark.parametrize(
    "ways",
    [
        ["stdin closed", "stdout closed", "stderr closed"],
        ["stdin closed", "stderr full", "one column", "no terminal"],
    ],
    ids=["closed", "full"],
)
def test_a_stream_that_takes_nothing_changes_nothing(place: Place, ways: list[str]) -> None:
    codes = place.run(ways, *COMMANDS)

    assert dict(zip(COMMANDS, codes, strict=True)) == COMMANDS
    assert "Traceback" not in place.said()
    assert place.run([], ("verify", "--all")) == [0]


@pytest.mark.parametrize(("how", "code"), [("full", 1), ("unread", 141)])
def test_an_answer_that_nobody_gets_costs_no_backup(place: Place, how: str, code: int) -> None:
    """`create 2>&1 | head -1`: it goes on after the reader has what it wanted."""
    codes = place.run([f"stdout {how}", f"stderr {how}", "no column"], ("create", "--no-qdrant-snapshot"), ("list",))

    assert codes == [code, code]
    assert len([*place.env.backups.glob("backup_*")]) == 1
    assert place.run([], ("verify", "--all")) == [0]


def test_names_are_what_they_are_in_a_locale_without_their_letters(place: Place, tmp_path: Path) -> None:
    """LC_ALL=C as it was before Python took it for UTF-8; a Latin-1 locale would misread the names."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options = ["-C", str(place.env.project)]

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "docmind_backup", *words, *options]
        return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)

    made = run("create", "--no-qdrant-snapshot", "--only", "uploads", **plain)
    assert (made.returncode, "Traceback" in made.stderr) == (0, False), made.stderr
    (backup,) = place.env.backups.glob("backup_*")
    line = next(line for line in (backup / "inventory.jsonl").read_text("utf-8").splitlines() if NAME in line)
    assert json.loads(line)["path"] == f"data/uploads/{NAME}"
    assert "path_b64" not in line

    stored = backup / "data" / "uploads" / NAME
    stored.chmod(0o600)
    stored.write_bytes(b"%P")
    damaged = run("verify", PYTHONIOENCODING="ascii")

    assert damaged.returncode == 4, damaged.stderr
    assert r"data/uploads/na\xefve \u2713.pdf" in damaged.stdout


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no shell")
def test_a_closed_stream_is_not_taken_for_a_file(place: Place) -> None:
    """The first file to be opened would be number 1, and be printed into; here the tool is started as people do."""
    command = f"{sys.executable} -m docmind_backup create -C {place.env.project} --only uploads >&- 2>&-"

    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    assert place.run([], ("verify", "--all")) == [0]
