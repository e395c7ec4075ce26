"""What scan and executor need of a Qdrant server. A description, no I/O: the real one is qdrant.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from docmind_backup.core.model import CollectionState, Placement


@dataclass(frozen=True, slots=True)
class ServerSnapshot:
    """A collection snapshot as the server lists it (Qdrant: SnapshotDescription)."""

    name: str
    size: int
    checksum: str = ""
    """sha256 in hex; empty where the server gives none (S3, before 1.8)."""
    created: str = ""
    """Server time, naive UTC `YYYY-MM-DDTHH:MM:SS`; empty when unknown."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a collection, without what its vectors hold."""

    id: int | str
    """A number, or a UUID as text."""
    payload: Mapping[str, Any]
    """Of it only what was asked for."""
    vectors: tuple[str, ...] = ()
    """Names of those that it has (the unnamed one is empty); only where they were asked for."""


class CollectionServer(Protocol):
    """One Qdrant server.

    Every method raises QdrantUnreachable (nothing answered, in time), QdrantRefused (the key) or
    QdrantError (anything else it said), with a hint.
    """

    @property
    def url(self) -> str:
        """Without credentials."""
        ...

    def version(self) -> str: ...

    def now(self) -> datetime:
        """The server's own clock, UTC, whole seconds; up to a second behind the one that names snapshots."""
        ...

    def peers(self) -> int:
        """Number of nodes; 1 when clustering is off."""
        ...

    def names(self) -> tuple[str, ...]:
        """All collections, sorted."""
        ...

    def describe(self, name: str) -> CollectionState:
        """`exists=False` when there is no such collection; counts exactly; role is left empty."""
        ...

    def aliases(self) -> dict[str, str]:
        """alias -> collection, all of them."""
        ...

    def count(self, name: str) -> int:
        """Exact number of points."""
        ...

    def placement(self, name: str) -> Placement:
        """Where its shards lie."""
        ...

    def scroll(self, name: str, keys: Sequence[str] | None) -> Iterator[tuple[Point, ...]]:
        """All points in the order of their ids, a page at a time, with these keys of their payloads (None: all)."""
        ...

    def snapshots(self, name: str) -> tuple[ServerSnapshot, ...]:
        """Empty when there is no such collection."""
        ...

    def create_snapshot(self, name: str) -> ServerSnapshot: ...

    def download(self, name: str, snapshot: str, target: Path, on_bytes: Callable[[int], None]) -> Downloaded:
        """Stream the snapshot into a new file `target` (0400), hashing on the way.

        `on_bytes` hears of less than nothing when what came has to be fetched again.
        """
        ...

    def identity(self, name: str, snapshot: str) -> str:
        """What tells the file itself from another of the same name and content; empty when that is not known."""
        ...

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """No error when it is already gone."""
        ...

    def another(self) -> CollectionServer:
        """The same server for another thread; closed with this one."""
        ...

    def stop(self, *, at_once: bool) -> None:
        """From any thread, or a signal handler: downloads end with Stopped, those under way too.

        `at_once`: so do creations, and what else another thread waits for now. What is asked from then on is answered
        as before, so that what was made can be deleted, but it has to come soon: else it is QdrantUnreachable.
        """
        ...


class RestoreTarget(CollectionServer, Protocol):
    """A server that collections are brought back to. It does as told: what may be deleted is the caller's to know."""

    def upload_snapshot(
        self, name: str, snapshot: Path, *, file: str, sha256: str, on_bytes: Callable[[int], None]
    ) -> None:
        """Restore `snapshot` under `name`, which it makes; its copy stays there as the snapshot `file` of `name`.

        `on_bytes` is told what was sent. QdrantUnreachable: the server may finish all the same.
        """
        ...

    def create_collection(self, name: str) -> None:
        """An empty one, whatever its vectors: without it the files under its name cannot be reached."""
        ...

    def sample(self, name: str, number: int) -> tuple[Point, ...]:
        """The first points, with their whole payloads and the names of their vectors."""
        ...

    def delete_collection(self, name: str) -> None:
        """With its aliases, without its snapshots; no error when it is already gone."""
        ...

    def set_aliases(self, wanted: Mapping[str, str | None]) -> None:
        """alias -> collection, None for no such alias; all in one step, the others as they are."""
        ...
