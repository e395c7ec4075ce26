"""What scan and executor need of a Qdrant server. A description, no I/O: the real one is qdrant.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from docmind_backup.core.model import CollectionState


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
        """The server's own clock, UTC, whole seconds."""
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

    def snapshots(self, name: str) -> tuple[ServerSnapshot, ...]:
        """Empty when there is no such collection."""
        ...

    def create_snapshot(self, name: str) -> ServerSnapshot: ...

    def download(self, name: str, snapshot: str, target: Path, on_bytes: Callable[[int], None]) -> Downloaded:
        """Stream the snapshot into a new file `target` (0400), hashing on the way.

        `on_bytes` hears of less than nothing when what came has to be fetched again.
        """
        ...

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """No error when it is already gone."""
        ...

    def another(self) -> CollectionServer:
        """The same server for another thread; closed with this one."""
        ...

    def stop(self, *, creating: bool) -> None:
        """From any thread: downloads end with Stopped, those under way too; `creating`: so do creations.

        Everything else is answered as before, so that what was made can be deleted.
        """
        ...
