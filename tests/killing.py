"""Kill a command at each of its steps, one after the other, and try each way out. Runs as a process of its own.

`python -m tests.killing TEMPLATE WORK ELSEWHERE VERB` prints a JSON line for each case. Every command runs in a
process forked from this one, which has everything imported: a fresh process that needs no second to start.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.sweep import STEP

STEPS = ("rename", "replace", "mkdir", "rmdir", "unlink", "symlink", "fsync", "utime", "chmod", "truncate", "link")
TELLING = ("rename", "replace")
SPARSE = 7
ALL = STEP == 1
DEAD = 4_194_304
"""Nobody's pid: above the highest that Linux gives (proc(5), pid_max)."""
WITHOUT = (".docmind-restore", "backups", ".lock", ".env", "models")
Tree = dict[str, tuple[Any, ...]]


def look(project: Path, *, without: tuple[str, ...] = WITHOUT, containers: tuple[str, ...] = ()) -> Tree:
    """Everything below `project` by kind, mode, time and content; of `containers` no time, a `-shm` not at all.

    Of a `.sqlite` no content: SQLite's own copy of a database has the same rows in other bytes.
    """
    seen: Tree = {}
    for folder, folders, files in os.walk(project):
        folders[:] = [name for name in folders if name not in without]
        for name in (*folders, *files):
            path = Path(folder, name)
            relative = path.relative_to(project).as_posix()
            if name not in without and not name.endswith("-shm"):
                seen[relative] = _what(path, timed=relative not in containers)
    return seen


def _what(path: Path, *, timed: bool) -> tuple[Any, ...]:
    found = path.lstat()
    mode = stat.filemode(found.st_mode)
    if path.is_symlink():
        return (mode, found.st_mtime_ns, os.readlink(path))
    if path.is_dir():
        return (mode, found.st_mtime_ns if timed else 0)
    content = path.name if path.suffix == ".sqlite" else hashlib.sha256(path.read_bytes()).hexdigest()
    return (mode, found.st_mtime_ns, found.st_size, content)


def forked(act: Callable[[], int]) -> int:
    """What a process came to that only does this; negative: the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
                code = act()
            if code not in (0, 2):
                os.write(2, said.getvalue()[-2000:].encode(errors="replace"))
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def counted(at: int, told: Callable[[int, str], object]) -> None:
    """From here on the process dies before its step number `at`; each step is told of."""
    count = 0

    def step(name: str) -> None:
        nonlocal count
        count += 1
        told(count, name)
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if name != "open" or (len(args) > 1 and args[1] & os.O_CREAT):
                step(name)
            return really(*args, **more)

        return call

    for name in (*STEPS, "open"):
        setattr(os, name, wrapped(name, getattr(os, name)))


def command(*words: str) -> Callable[[], int]:
    from docmind_backup.cli import main

    return lambda: main(list(words))


def steps_of(words: list[str]) -> list[str]:
    """The steps that the command takes when nothing happens to it."""
    read, write = os.pipe()

    def run() -> int:
        os.close(read)
        counted(-1, lambda _, name: os.write(write, f"{name}\n".encode()))
        return command(*words)()

    code = forked(run)
    os.close(write)
    with os.fdopen(read, "rb") as steps:
        names = steps.read().decode().split()
    assert code == 0, code
    return names


def chosen(steps: list[str]) -> list[int]:
    """Where to kill: at each rename, of sources and of the journal, at each deletion of a folder, at the first and
    the last steps, and at some of what lies between; everywhere with DOCMIND_TEST_SWEEPS=full."""
    numbered = list(enumerate(steps, 1))
    return [at for at, name in numbered if ALL or name in TELLING or at % SPARSE == 0 or at <= 2 or at > len(steps) - 2]


def killed(words: list[str], at: int) -> int:
    def run() -> int:
        counted(at, lambda *_: None)
        return command(*words)()

    return forked(run)


class Copies:
    """An environment and its backups, copied anew for each case to the same place; its artifacts lie elsewhere."""

    def __init__(self, template: Path, work: Path, elsewhere: Path) -> None:
        self.folder, self.artifacts = work / "case", elsewhere / "case" / "artifacts"
        self._from, self._beside = (template, template / "artifacts"), self.artifacts

    def next(self) -> list[str]:
        """The options that name the new copy."""
        self._remove()
        for source, target in zip(self._from, (self.folder, self._beside), strict=True):
            shutil.copytree(source, target, symlinks=True)
        env = self.folder / "docmind" / ".env"
        env.write_text(f"DOCMIND_ARTIFACTS__DIR={self.artifacts}\n")
        return ["-C", str(self.folder / "docmind"), "--dest", str(self.folder / "backups")]

    def _remove(self) -> None:
        for folder in (self.folder, self.artifacts.parent):
            if folder.exists():
                shutil.rmtree(folder)

    def begin_with(self, *words: str) -> None:
        """From here on each copy is one in which this command has been given."""
        assert forked(command(*words, *self.next())) == 0
        kept = self.folder.with_name("begun")
        shutil.copytree(self.folder, kept, symlinks=True)
        beside = self.artifacts.parent.with_name("begun")
        shutil.copytree(self.artifacts.parent, beside, symlinks=True)
        self._from, self._beside = (kept, beside), self.artifacts.parent

    def look(self) -> Tree:
        found = look(self.folder / "docmind", containers=CONTAINERS)
        return found | {f"artifacts/{path}": what for path, what in look(self.artifacts).items()}

    def left(self) -> list[str]:
        """Folders of a restore beside the data directory's own."""
        return [str(path) for top in (self.folder, self.artifacts.parent) for path in top.rglob(".rollback-*")]


CONTAINERS = ("data", "cache", "cache/ingestion")
"""Whose time changes with what is put into them."""
WORDS = {
    "restore": ["restore", "latest", "--yes"],
    "rollback": ["restore", "--rollback"],
    "discard": ["restore", "--discard-rollback", "--yes"],
}


def sweep(copies: Copies, verb: str) -> Iterator[dict[str, Any]]:
    """Kill `verb` before each of its steps; then `--resume` it, and `--rollback` another one.

    Both only where a restore has moved something; else one of the two at each step, in turn.
    """
    if verb != "restore":
        copies.begin_with(*WORDS["restore"])
    steps = steps_of([*WORDS[verb], *copies.next()])
    for number, at in enumerate(chosen(steps)):
        moved = verb != "restore"
        for way in ("--resume", "--rollback")[:: 1 if number % 2 else -1]:
            options = copies.next()
            journal = copies.folder / "docmind/data/.docmind-restore/journal.json"
            code = killed([*WORDS[verb], *options], at)
            unfinished, moved = (
                journal.exists(),
                moved or not journal.exists() or b'"staging"' not in journal.read_bytes(),
            )
            pruned = forked(command("prune", "--keep-last", "1", *options)) if unfinished and number % 9 == 0 else 11
            out = forked(command("restore", way, *options))
            case = {"at": at, "of": len(steps), "way": way, "killed": code, "unfinished": unfinished, "pruned": pruned}
            yield {**case, "code": out, "tree": copies.look(), "journal": journal.exists(), "left": copies.left()}
            if not moved or verb != "restore":
                break


if __name__ == "__main__":
    import docmind_backup.compose
    import docmind_backup.documents
    import docmind_backup.qdrant
    import docmind_backup.render_restore
    import docmind_backup.restores
    import docmind_backup.settings  # noqa: F401
    from docmind_backup import restored
    from docmind_backup.core.journal import Checked

    restored.opened = lambda piece, _: Checked(piece.stored, "not opened")  # a process of its own each time

    for case in sweep(Copies(*map(Path, sys.argv[1:4])), sys.argv[4]):
        print(json.dumps(case), flush=True)
