"""Unpack archives on every Python from 3.11.0 on: `filter` came to tarfile with 3.11.4, and Debian 12 has 3.11.2."""

from __future__ import annotations

import copy
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import Literal

FILTERS = hasattr(tarfile, "data_filter")


def unpack(archive: tarfile.TarFile, folder: Path, how: Literal["data", "tar"] = "data") -> None:
    """All of an archive that is kept here."""
    if FILTERS:
        archive.extractall(folder, filter=how)
    else:
        archive.extractall(folder, [_ours(info) for info in archive])


def unpack_one(archive: tarfile.TarFile, info: tarfile.TarInfo, folder: Path) -> None:
    """One member of an archive from anywhere; TarError when it leads out of the folder."""
    if FILTERS:
        archive.extract(info, folder, filter="data")
        return
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or not (info.isreg() or info.isdir()):
        raise tarfile.TarError(f"{info.name!r} is not plainly inside")
    archive.extract(_ours(info), folder)


def _ours(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Owned by whoever unpacks it."""
    ours = copy.copy(info)
    ours.uid, ours.gid, ours.uname, ours.gname = os.geteuid(), os.getegid(), "", ""
    return ours
