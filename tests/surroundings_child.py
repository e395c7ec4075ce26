"""Run commands, each in a process of its own that begins with broken streams: `python -m` without its start-up.

argv: a JSON list of [ways, arguments]; stdout: a JSON list of exit codes. What the commands say goes to the folder one
stands in: `CASE.out` and `CASE.err`, where a stream is not broken.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence

from docmind_backup import compose, documents, operations, render, restores, verify  # noqa: F401
from docmind_backup.cli import console


def closed(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


def full(number: int) -> Callable[[], None]:
    return lambda: _replaced(number, os.open("/dev/full", os.O_WRONLY))


def unread(number: int) -> Callable[[], None]:
    """A pipe whose reader went away."""
    return lambda: _replaced(number, _without_reader())


def _without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _replaced(number: int, by: int) -> None:
    os.dup2(by, number)
    os.close(by)


def told(name: str, value: str) -> Callable[[], None]:
    return lambda: os.environ.__setitem__(name, value)


WAYS: dict[str, Callable[[], None]] = {
    "stdin closed": closed(0),
    "stdout closed": closed(1),
    "stderr closed": closed(2),
    "stdout full": full(1),
    "stderr full": full(2),
    "stdout unread": unread(1),
    "stderr unread": unread(2),
    "one column": told("COLUMNS", "1"),
    "no column": told("COLUMNS", "none"),
    "no terminal": told("TERM", ""),
}


def tried(case: int, ways: Sequence[str], arguments: Sequence[str]) -> int:
    """The exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        for number, end in ((1, "out"), (2, "err")):
            _replaced(number, os.open(f"{case}.{end}", os.O_WRONLY | os.O_CREAT, 0o600))
        _as_started(ways)
        sys.argv = ["docmind-backup", *arguments]
        console()
    except SystemExit as done:
        os._exit(_ended(done.code))
    except BaseException as error:  # as the interpreter would
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)


def _as_started(ways: Sequence[str]) -> None:
    """Broken, and the interpreter has seen it: a closed stream is None."""
    for way in ways:
        WAYS[way]()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        number = getattr(sys, f"__{name}__").fileno()
        try:
            os.fstat(number)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        except OSError:
            stream = None
        setattr(sys, name, stream)


def _ended(code: object) -> int:
    """As the interpreter ends: what cannot be flushed then is exit 120."""
    try:
        sys.stdout.flush()
    except OSError:
        return 120
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    json.dump([tried(i, *case) for i, case in enumerate(json.loads(sys.argv[1]))], sys.stdout)
