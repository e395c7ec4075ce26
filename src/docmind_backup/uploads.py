"""Put a snapshot under a name that nothing has on a Qdrant server, or leave nothing of it there."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from docmind_backup.core.model import Advanced, CollectionState, OnEvent
from docmind_backup.core.returning import Expected, differences
from docmind_backup.core.server import RestoreTarget
from docmind_backup.errors import QdrantError, QdrantUnreachable


@dataclass(frozen=True, slots=True)
class Upload:
    """A proved snapshot and where it goes."""

    name: str
    """The collection that it becomes."""
    path: Path
    file: str
    """What it is called among the snapshots of `name` until it is deleted there."""
    sha256: str
    expected: Expected


class Unlike(QdrantError):
    """It is there, and is not what was uploaded; the server has said what it is."""

    def __init__(self, name: str, problems: Collection[str], found: CollectionState) -> None:
        super().__init__(f"{name} is not what was uploaded: {'; '.join(problems)}")
        self.found = found


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server that did not answer an upload is watched: it may finish all the same."""

    looks: int = 60
    pause_s: float = 5


def state_of(server: RestoreTarget, name: str) -> CollectionState:
    """Of the collection that has this very name: a description would follow an alias."""
    if name not in server.names():
        return CollectionState(name, role="", exists=False)
    return server.describe(name)


def check_free(server: RestoreTarget, name: str) -> None:
    """An upload to an alias would overwrite the collection behind it (seen on Qdrant 1.18)."""
    if name in server.names() or name in server.aliases():
        raise QdrantError(
            f"{name} has appeared on {server.url} meanwhile; nothing was uploaded there",
            hint="is DocMind, or another restore, still running?",
        )


def place(
    server: RestoreTarget, upload: Upload, files: Collection[str], *, patience: Patience, on_event: OnEvent
) -> CollectionState:
    """Upload, compare, and only then delete what the server keeps of it: `files` tell the collection as ours."""
    try:
        server.upload_snapshot(
            upload.name,
            upload.path,
            file=upload.file,
            sha256=upload.sha256,
            on_bytes=lambda count: on_event(Advanced(count, downloaded=True)),
        )
    except QdrantUnreachable:
        if not came_all_the_same(server, upload, patience):
            raise
    return keep(server, upload, files)


def keep(server: RestoreTarget, upload: Upload, files: Collection[str]) -> CollectionState:
    """The collection, if it is what it has to be, without the files that uploads left. Raises QdrantError."""
    found = server.describe(upload.name)
    if problems := differences(upload.expected, found):
        raise Unlike(upload.name, problems, found)
    delete_files(server, upload.name, files)
    return found


def came_all_the_same(server: RestoreTarget, upload: Upload, patience: Patience) -> bool:
    """Whether what was not answered is the collection, or becomes it while the server is watched."""
    for look in range(patience.looks):
        if look:
            time.sleep(patience.pause_s)
        try:
            if not differences(upload.expected, state_of(server, upload.name)):
                return True
        except QdrantUnreachable:
            continue
    return False


def lies_there(server: RestoreTarget, name: str, file: str) -> bool:
    """Whether an upload to `name`, which no collection has, arrived whole: what did not leaves no file.

    An empty collection is made of that name, and dropped: without one there is no list (seen on Qdrant 1.18).
    """
    if name not in server.names():
        server.create_collection(name)
    there = lists_any(server, name, (file,))
    server.delete_collection(name)
    return there


def lists_any(server: RestoreTarget, name: str, files: Collection[str]) -> bool:
    return any(listed.name in files for listed in server.snapshots(name))


def delete_files(server: RestoreTarget, name: str, files: Collection[str]) -> None:
    for listed in server.snapshots(name):
        if listed.name in files:
            server.delete_snapshot(name, listed.name)


def remove(server: RestoreTarget, name: str, files: Collection[str]) -> None:
    """The collection `name`, which is ours, after the `files` below it; these too when the upload made no collection.

    Files of a name without a collection cannot be reached (seen on Qdrant 1.18): an empty one is made for that.
    """
    if name not in server.names():
        server.create_collection(name)
    delete_files(server, name, files)
    server.delete_collection(name)
