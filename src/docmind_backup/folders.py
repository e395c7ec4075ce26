"""Go into folders by descriptors, name by name. Follows no link."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def enter(name: str, above: int, *, flags: int = 0) -> int:
    """A descriptor of the folder `name` in the folder `above`. Raises OSError; ELOOP or ENOTDIR for a link."""
    return os.open(name, FOLDER_FLAGS | flags, dir_fd=above)


def descend(top: int, names: Iterable[str], enter: Callable[[str, int], int] = enter) -> int:
    """A descriptor of the folder that lies `names` below `top`. Raises what `enter` raises."""
    fd = os.dup(top)
    for name in names:
        above = fd
        try:
            fd = enter(name, above)
        finally:
            os.close(above)
    return fd
