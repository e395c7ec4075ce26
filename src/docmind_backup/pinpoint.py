"""Find the line of a file on which a setting stands: for messages only, nothing is decided by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

TABLE = re.compile(r"\s*\[\s*tool\s*\.\s*[\"']?docmind-backup[\"']?\s*\]")
ANY_TABLE = re.compile(r"\s*\[")


def line_of(path: Path, name: str, *, shared: bool = False, last: bool = False) -> str:
    """` on line 3`, or nothing where it cannot be told.

    `name` may be written with `-` or `_`; `shared`: in our table of a file of others; `last`: of several lines the last
    one counts, as in `.env`.
    """
    word = "[-_]".join(map(re.escape, re.split("[-_]", name)))
    setting = re.compile(rf"\s*(export\s+)?[\"']?{word}[\"']?\s*=", re.IGNORECASE)
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = [number for number, line in _ours(lines, shared=shared) if setting.match(line)]
    return f" on line {found[-1 if last else 0]}" if found else ""


def _ours(lines: list[str], *, shared: bool) -> Iterator[tuple[int, str]]:
    ours = not shared
    for number, line in enumerate(lines, 1):
        if shared and ANY_TABLE.match(line):
            ours = bool(TABLE.match(line))
        if ours:
            yield number, line
