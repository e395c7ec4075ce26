"""Find the catalog without loading every setting, for `list` and completion. Says nothing where it is not that simple.

`settings.load` has the last word, and takes several times as long as all else that a completion does.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT, DATA_DIR = "DOCMIND_BACKUP_ROOT", "DOCMIND_DATA_DIR"
OWN, SWITCHES = "DOCMIND_BACKUP_", "DOCMIND_CONFIG__"
SETTINGS, FILES = "docmind-backup.toml", (".env", "pyproject.toml")
"""Where else it could be said: anywhere in the first, and in the others by one of these words."""
WORDS = ("docmind_backup", "docmind-backup", "docmind_data_dir", "docmind_config")
LIMIT = 1 << 20
"""Characters of such a file that are looked through."""


def catalog_root(project: Path, given: Path | None) -> Path | None:
    """The root that `settings.load` would find, from `--dest` and the environment; None: ask it.

    It is asked as soon as a file has a word to say, a variable is ours that is not the root, or DocMind is told to
    read its variables in another way.
    """
    project = Path(os.path.abspath(project))
    said = {name.upper(): text for name, text in os.environ.items() if text}
    ours = {name for name in said if name.startswith((OWN, SWITCHES))}
    if ours - {ROOT} or not os.path.isdir(project) or os.path.lexists(project / SETTINGS):
        return None
    if any(_has_a_word(project / name) for name in FILES):
        return None
    root = given or said.get(ROOT)
    return _below(project, root) if root else _below(project, said.get(DATA_DIR, "data")) / "backups"


def _below(project: Path, path: Path | str) -> Path:
    return Path(os.path.normpath(project / Path(path).expanduser()))


def _has_a_word(path: Path) -> bool:
    """True as well when that cannot be told."""
    try:
        with path.open("rb") as file:
            text = file.read(LIMIT + 1).decode().lower()
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError):
        return True
    return len(text) > LIMIT or any(word in text for word in WORDS)
