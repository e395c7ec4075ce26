"""What a process is started with, made harmless: streams that are closed or fail, a locale that misreads file names."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

STDIN, STDOUT, STDERR = range(3)
SPELLED = "backslashreplace"
"""How a name is shown where the encoding has no letter for it: `na\\xefve.pdf`."""


def make_harmless() -> None:
    """To be called before anything is opened: the next file would get the number of a closed stream, and its prints.

    A closed stream leads nowhere: who closes stdout wants no answer. What is said on the way is worth no backup:
    stderr loses what it cannot take (a log on a full disk, `2>&1 | head`).
    """
    _read_names_as_utf8()
    for number in (STDIN, STDOUT, STDERR):
        _lead_nowhere_if_closed(number)
    sys.stdin = sys.stdin or open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(STDOUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=SPELLED)
    sys.stderr = _forgiving(sys.stderr)


def _read_names_as_utf8() -> None:
    """Begin anew where the locale says otherwise: a name would be recorded as other bytes than it has (PEP 540)."""
    if sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


def _lead_nowhere_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        os.set_inheritable(number, True)


def _forgiving(stream: TextIO | None) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Forgiving(STDERR, "w", closefd=False)),
        encoding=stream.encoding if stream else "utf-8",
        errors=SPELLED,
        line_buffering=True,
        write_through=True,
    )


class _Forgiving(io.FileIO):
    """What cannot be written is lost."""

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        try:
            return super().write(data) or length
        except OSError:
            return length
