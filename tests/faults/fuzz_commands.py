"""Commands on a catalog in which something was forged: a documented exit code, no traceback, no other backup lost."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from docmind_backup.cli import main

EVERY = 20
"""One case of so many is tried with each command."""
COMMANDS = (
    ("list",),
    ("list", "--json"),
    ("show", "BACKUP"),
    ("restore-plan", "BACKUP"),
    ("restore", "BACKUP", "--dry-run"),
    ("restore", "BACKUP", "--to", "OUT", "--yes", "--quiet"),
    ("prune", "-n", "--keep-last", "1"),
    ("create", "--only", "identity", "--no-prune", "--quiet"),
)


CODES = {0, 1, 2, 3, 4, 5, 10, 11, 13, 14, 15, 16, 17}
"""Those of README.md, but for signals."""
WENT_ON = {0, 3, 14}
"""What `create` ends with where another backup is forged: 14 where that one says that there was more."""
OURS = {".state", ".backup.lock", "events.jsonl"}


@dataclass(frozen=True, slots=True)
class Commands:
    """On the project that `backup` is one of; another one, that nobody forges, lies beside it."""

    backup: Path
    project: Path
    other: Path

    def tried(self, scratch: Path) -> str:
        """What is wrong; empty when nothing is."""
        return next(filter(None, (self._one(words, scratch) for words in COMMANDS)), "")

    def _one(self, words: tuple[str, ...], scratch: Path) -> str:
        before, around = self._names(), self._around(scratch)
        given = [{"BACKUP": str(self.backup), "OUT": str(scratch)}.get(word, word) for word in words]
        try:
            problem = self._judged(words, *_called(given, self.project))
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if words[0] == "create":
            for name in self._names() - before:
                shutil.rmtree(self.backup.parent / name)
        if not problem and (self._names(), self._around(scratch)) != (before, around):
            problem = "something was made, removed or changed"
        shutil.rmtree(scratch, ignore_errors=True)
        return f"{' '.join(words)}: {problem}"[:300] if problem else ""

    def _judged(self, words: tuple[str, ...], code: int, out: str) -> str:
        if code not in (WENT_ON if words[0] == "create" else CODES):
            return f"exit {code}"
        if words == ("list", "--json") and self.other.name not in out:
            return "the other backup is not listed"
        return ""

    def _names(self) -> set[str]:
        return {path.name for path in self.backup.parent.iterdir()} - OURS

    def _around(self, scratch: Path) -> dict[str, tuple[int, int]]:
        """Size and time of each file but those of the scratch folder and of the catalog."""
        found: dict[str, tuple[int, int]] = {}
        for folder, folders, files in os.walk(self.project.parent):
            folders[:] = [name for name in folders if Path(folder, name) not in (scratch, self.backup.parent)]
            for path in (Path(folder, name) for name in files):
                seen = path.lstat()
                found[str(path)] = seen.st_size, seen.st_mtime_ns
        return found


def _called(words: list[str], project: Path) -> tuple[int, str]:
    """In this process, so that an exception is one. Exit code and stdout."""
    embedded = ["--qdrant-path", str(project / "data" / "qdrant-embedded")]
    takes = words[0] in ("create", "restore", "restore-plan")
    out, err = io.BytesIO(), io.BytesIO()
    with (
        io.TextIOWrapper(out, "utf-8", "surrogateescape") as stdout,
        io.TextIOWrapper(err, "utf-8", "surrogateescape") as stderr,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        code = main([words[0], "-C", str(project), *(embedded if takes else []), *words[1:]])
        stdout.flush()
        return code, out.getvalue().decode(errors="replace")
