"""Servers to restore a collection to, what is recorded of it, and everything that can be seen of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from tests.standin import StandIn

from docmind_backup.core.model import CollectionRecord, CollectionState
from docmind_backup.core.server import RestoreTarget
from docmind_backup.qdrant import QdrantServer, connect
from docmind_backup.returning import CollectionReturn
from docmind_backup.uploads import Patience

ID = "20261121_101500_0123456789ab"
NAME = "docs"
VECTORS = {"text-dense": {"size": 4, "distance": "Dot"}}
METADATA = {"docmind_owner": "text", "docmind_schema_version": "2"}
FOREIGN = "nightly-by-somebody-else.snapshot"


def points(number: int, word: str = "new") -> list[dict[str, Any]]:
    return [
        {"id": at, "vector": {"text-dense": [1.0, at, 2.0, 3.0]}, "payload": {"doc_id": f"{word}-{at}"}}
        for at in range(number)
    ]


class FileNotes:
    """One collection's part of a journal, as a file of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self) -> dict[str, object]:
        return json.loads(self._path.read_bytes()) if self._path.exists() else {}

    def put(self, state: Mapping[str, object]) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(state))
        os.replace(new, self._path)


@dataclass(frozen=True)
class Backup:
    """One collection of a backup."""

    taken: CollectionRecord
    snapshot: Path


def backup_of(data: bytes, state: CollectionState, folder: Path) -> Backup:
    path = folder / "recorded.snapshot"
    path.write_bytes(data)
    taken = CollectionRecord(
        name=state.name,
        role="text",
        taken_at="2026-11-21T10:15:00+00:00",
        points_min=state.points,
        points_max=state.points,
        path=f"qdrant/{state.name}/recorded.snapshot",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        state=state,
    )
    return Backup(taken, path)


def make_backup(folder: Path, aliases: tuple[str, ...] = ("live",)) -> Backup:
    """Five points, an index, metadata and an alias, taken from a server that is no more."""
    with StandIn() as source:
        source.create_collection(NAME, points(5), VECTORS, None, METADATA, ["doc_id"])
        with connect(source.url) as server:
            state = replace(server.describe(NAME), aliases=aliases)
            server.create_snapshot(NAME)
        (data,) = source.snapshots(NAME).values()
    return backup_of(data, state, folder)


# -- servers -------------------------------------------------------------------------------------


def fill(standin: StandIn) -> None:
    """What is there in every world: somebody else's, with a file of a collection that is gone."""
    ticks = count()
    standin.set_clock(lambda: datetime(2026, 11, 21, 12, tzinfo=UTC) + timedelta(seconds=next(ticks)))
    standin.create_collection("other", points(2, "other"), VECTORS)
    standin.put_snapshot("other", FOREIGN, b"theirs")
    standin.put_snapshot("gone", FOREIGN, b"theirs too")
    standin.create_alias("moved", "other")


def nothing_there(standin: StandIn) -> None:
    fill(standin)


def an_alias(standin: StandIn) -> None:
    fill(standin)
    standin.create_collection("docs-before", points(3, "old"), VECTORS)
    standin.create_alias(NAME, "docs-before")


def the_name_itself(standin: StandIn) -> None:
    """Other metadata, which an upload over it would keep; a foreign snapshot; an alias nobody recorded."""
    fill(standin)
    standin.create_collection(NAME, points(3, "old"), VECTORS, None, {"docmind_owner": "before"}, ["kind"])
    standin.put_snapshot(NAME, FOREIGN, b"theirs as well")
    standin.create_alias("live", NAME)
    standin.create_alias("dashboard", NAME)


WORLDS: dict[str, Callable[[StandIn], None]] = {
    "new": nothing_there,
    "alias": an_alias,
    "exact": the_name_itself,
}


def everything(standin: StandIn) -> dict[str, Any]:
    """All there is on the server, what no call reaches too."""
    state = standin.state
    with state.lock:
        return {
            "collections": {
                name: (
                    {key: value for key, value in found.config.items() if key != "uuid"},
                    dict(found.payload_index),
                    state.settle(name),
                )
                for name, found in sorted(state.collections.items())
            },
            "aliases": dict(sorted(state.aliases.items())),
            "files": {
                folder: sorted((name, hashlib.sha256(file.data).hexdigest()) for name, file in files.items())
                for folder, files in sorted(state.files.items())
                if files
            },
        }


# -- restoring -----------------------------------------------------------------------------------


def returning(server: RestoreTarget, backup: Backup, home: Path, **options: Any) -> CollectionReturn:
    """As a process makes it that knows nothing but the notes."""
    home.mkdir(exist_ok=True)
    return CollectionReturn(
        server,
        backup.taken,
        backup.snapshot,
        home / "kept",
        FileNotes(home / "notes.json"),
        **{"backup_id": ID, "made_with": "1.18.3", "patience": Patience(looks=2, pause_s=0)} | options,
    )


def connected(url: str) -> QdrantServer:
    return connect(url, connect_timeout_s=5, request_timeout_s=20, create_timeout_s=20, stall_timeout_s=20)
