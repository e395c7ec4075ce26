"""Write down the commands that are proposed so that they look where the one that proposes them did. No I/O."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

PROG = "docmind-backup"
_COMMAND = re.compile(rf"(?<=`{PROG} )[^`]+(?=`)")
_TAKEN_BY = {
    "--qdrant-path": ("create", "restore", "restore-plan"),
    "--to": ("restore --resume", "restore --rollback"),
}
"""Options that not every command has, and how those begin that have them."""


def command(*words: object) -> str:
    """For a shell."""
    return shlex.join((PROG, *map(str, words)))


@dataclass(frozen=True, slots=True)
class Where:
    """Where a command was told to look."""

    options: tuple[tuple[str, str], ...] = ()

    def said(self, words: str) -> str:
        """A command, with the options that it takes and does not have; one with the path of a backup needs none."""
        if words.startswith("verify ") and "/" in words:
            return words
        given = words.split()
        more = (shlex.join(pair) for pair in self.options if pair[0] not in given and _takes(words, pair[0]))
        return " ".join((words, *more))

    def told(self, text: str) -> str:
        """A text, each command in it (between backticks) as `said`."""
        return _COMMAND.sub(lambda found: self.said(found[0]), text)


def _takes(words: str, option: str) -> bool:
    return option not in _TAKEN_BY or any(f"{words} ".startswith(f"{begin} ") for begin in _TAKEN_BY[option])
