"""No folder is entered through a link, whoever put it there and however deep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docmind_backup.folders import FOLDER_FLAGS, descend


@pytest.mark.parametrize("names", [("link",), ("above", "link"), ("link", "below")])
def test_a_link_is_no_way_down(names: tuple[str, ...], tmp_path: Path) -> None:
    elsewhere, top = tmp_path / "elsewhere", tmp_path / "top"
    (elsewhere / "below").mkdir(parents=True)
    (top / "above").mkdir(parents=True)
    (top / "link").symlink_to(elsewhere)
    (top / "above" / "link").symlink_to(elsewhere)
    fd = os.open(top, FOLDER_FLAGS)
    try:
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            descend(fd, names)
    finally:
        os.close(fd)
