"""A Qdrant in memory: core/server.py's CollectionServer without a wire. Held to it by test_qdrant_contract.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from tests.snapshots import recorded

from docmind_backup.core.model import CollectionState, Placement
from docmind_backup.core.qdrant_rest import NotFoundError, collection_name, file_name
from docmind_backup.core.server import Downloaded, Point, ServerSnapshot
from docmind_backup.errors import QdrantError

CHUNK = 2**16
_files = count(1)


@dataclass(slots=True)
class FakeCollection:
    state: CollectionState
    payloads: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """By the point's id; a point that is not here has none."""
    snapshots: dict[str, ServerSnapshot] = field(default_factory=dict)
    data: dict[str, bytes] = field(default_factory=dict)
    """By the snapshot's name."""
    identities: dict[str, str] = field(default_factory=dict)


class FakeServer:
    """Fill it with `add` and `put`; `calls` says what was asked of it, `fail` and `before` disturb it."""

    def __init__(self, url: str = "http://fake:6333", *, now: datetime | None = None) -> None:
        self._url = url
        self.clock: Callable[[], datetime] = (lambda: now) if now else (lambda: datetime.now(UTC))
        self.collections: dict[str, FakeCollection] = {}
        self.alias_names: dict[str, str] = {}
        self.calls: list[tuple[str, ...]] = []
        self._failing: dict[tuple[str, ...], QdrantError] = {}
        self._hooks: dict[str, Callable[[], object]] = {}

    # -- filling and disturbing it

    def add(self, name: str, points: int = 0, *, metadata: Mapping[str, Any] | None = None) -> None:
        vectors = {"text-dense": {"size": 4, "distance": "Cosine"}}
        sparse = {"text-sparse": {"modifier": "idf"}}
        params = {"vectors": vectors, "sparse_vectors": sparse, "shard_number": 1}
        self.collections[name] = FakeCollection(
            CollectionState(
                name,
                role="",
                points=points,
                vectors=vectors,
                sparse_vectors=sparse,
                payload_schema={"doc_id": {"data_type": "keyword", "points": points}},
                metadata=metadata or {},
                config={"params": params, "metadata": metadata or {}},
            )
        )

    def put(self, name: str, snapshot: str, data: bytes = b"", *, checksum: bool = True, at: str | None = None) -> None:
        """A snapshot, whoever made it; one of that name is replaced."""
        digest = hashlib.sha256(data).hexdigest() if checksum else ""
        created = f"{self.now():%Y-%m-%dT%H:%M:%S}" if at is None else at
        self._find(name).snapshots[snapshot] = ServerSnapshot(snapshot, len(data), digest, created)
        self._find(name).data[snapshot] = data
        self._find(name).identities[snapshot] = f"{next(_files):x}"

    def fail(self, error: QdrantError, *call: str) -> None:
        """From now on `call` (a method, a method and its collection, ...) raises this."""
        self._failing[call] = error

    def before(self, method: str, act: Callable[[], object]) -> None:
        """Call `act` before each call of `method` is served."""
        self._hooks[method] = act

    def _asked(self, *call: str) -> None:
        self.calls.append(call)
        self._hooks.get(call[0], lambda: None)()
        for length in range(1, len(call) + 1):
            if error := self._failing.get(call[:length]):
                raise error

    def _find(self, name: str) -> FakeCollection:
        found = self.collections.get(self.alias_names.get(collection_name(name), name))
        if found is None:
            raise NotFoundError(f"Qdrant at {self._url} says: Not found: Collection `{name}` doesn't exist!")
        return found

    # -- CollectionServer

    @property
    def url(self) -> str:
        return self._url

    def version(self) -> str:
        self._asked("version")
        return "1.18.3"

    def now(self) -> datetime:
        return self.clock().astimezone(UTC).replace(microsecond=0)

    def peers(self) -> int:
        self._asked("peers")
        return 1

    def names(self) -> tuple[str, ...]:
        self._asked("names")
        return tuple(sorted(self.collections))

    def describe(self, name: str) -> CollectionState:
        self._asked("describe", name)
        try:
            state = self._find(name).state
        except NotFoundError:
            return CollectionState(name, role="", exists=False)
        return replace(state, aliases=tuple(sorted(a for a, of in self.alias_names.items() if of == name)))

    def aliases(self) -> dict[str, str]:
        self._asked("aliases")
        return dict(self.alias_names)

    def count(self, name: str) -> int:
        self._asked("count", name)
        return self._find(name).state.points

    def placement(self, name: str) -> Placement:
        self._asked("placement", name)
        self._find(name)
        return Placement((0,))

    def scroll(self, name: str, keys: Sequence[str] | None) -> Iterator[tuple[Point, ...]]:
        self._asked("scroll", name)
        found = self._find(name)
        payloads = [found.payloads.get(number, {}) for number in range(found.state.points)]
        wanted = [{key: payload[key] for key in payload if keys is None or key in keys} for payload in payloads]
        yield tuple(Point(number, payload) for number, payload in enumerate(wanted))

    def snapshots(self, name: str) -> tuple[ServerSnapshot, ...]:
        self._asked("snapshots", name)
        try:
            return tuple(snapshot for _, snapshot in sorted(self._find(name).snapshots.items()))
        except NotFoundError:
            return ()

    def create_snapshot(self, name: str) -> ServerSnapshot:
        """Named by the second, as the real one names them: two of one second replace each other."""
        self._asked("create_snapshot", name)
        made = f"{name}-2841235159689269-{self.now():%Y-%m-%d-%H-%M-%S}.snapshot"
        self.put(name, made, recorded("text"))
        return self._find(name).snapshots[made]

    def download(self, name: str, snapshot: str, target: Path, on_bytes: Callable[[int], None]) -> Downloaded:
        self._asked("download", name, snapshot)
        data = self._find(name).data.get(file_name(snapshot))
        if data is None:
            raise NotFoundError(f"Qdrant at {self._url} says: Not found: Snapshot {snapshot} not found")
        _write(target, data)
        for chunk in _chunks(data):
            on_bytes(len(chunk))
        return Downloaded(len(data), hashlib.sha256(data).hexdigest())

    def identity(self, name: str, snapshot: str) -> str:
        self._asked("identity", name, snapshot)
        found = self._find(name)
        return found.identities[snapshot] if snapshot in found.snapshots else ""

    def another(self) -> FakeServer:
        return self

    def stop(self, *, at_once: bool) -> None:
        """Nothing takes time here."""

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        self._asked("delete_snapshot", name, snapshot)
        if name in self.collections:
            self.collections[name].snapshots.pop(snapshot, None)
            self.collections[name].data.pop(snapshot, None)


def _write(target: Path, data: bytes) -> None:
    with target.open("xb") as file:
        file.write(data)
    target.chmod(0o400)


def _chunks(data: bytes) -> Iterable[bytes]:
    return (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))
