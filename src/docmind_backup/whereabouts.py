"""Find the catalog without loading every setting, for what only looks. Says nothing where it is not that simple.

`settings.load` has the last word, and takes several times as long as all else that a completion does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

ROOT, DATA_DIR, SWITCHES = "DOCMIND_BACKUP_ROOT", "DOCMIND_DATA_DIR", "DOCMIND_CONFIG__"
TOML, SHARED_TOML = "docmind-backup.toml", "pyproject.toml"
LIMIT = 1 << 20
"""Characters of a file that are looked through."""


def catalog_root(project: Path, given: Path | None) -> Path | None:
    """The root that `settings.load` would find, from `--dest`, the environment and `.env`; None: ask it.

    It is asked as soon as a TOML file is ours, DocMind is told to read its variables in another way, or a file cannot
    be read.
    """
    project = Path(os.path.abspath(project))
    if not os.path.isdir(project) or os.path.lexists(project / TOML):
        return None
    try:
        if "docmind-backup" in _text(project / SHARED_TOML):
            return None
        said = {**_variables(_dotenv(project / ".env")), **_variables(os.environ)}
    except (OSError, ValueError):
        return None
    if any(name.startswith(SWITCHES) for name in said):
        return None
    root = given or said.get(ROOT)
    return _below(project, root) if root else _below(project, said.get(DATA_DIR, "data")) / "backups"


def _variables(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name.upper(): text for name, text in values.items() if text}


def _dotenv(path: Path) -> Mapping[str, str | None]:
    """With the parser that the settings are read with, if it has a word to say."""
    text = _text(path)
    if not any(word in text for word in ("docmind_backup_root", "docmind_data_dir", "docmind_config")):
        return {}
    import logging

    from dotenv import dotenv_values

    logging.getLogger("dotenv.main").disabled = True  # what it cannot read, `settings` says
    return dotenv_values(path, encoding="utf-8")


def _below(project: Path, path: Path | str) -> Path:
    return Path(os.path.normpath(project / Path(path).expanduser()))


def _text(path: Path) -> str:
    """In small letters; empty where there is none. OSError, or ValueError for what is no file or no short text."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a file")
        with path.open("rb") as file:
            text = file.read(LIMIT + 1).decode().lower()
    except FileNotFoundError:
        return ""
    if len(text) > LIMIT:
        raise ValueError("too long")
    return text
