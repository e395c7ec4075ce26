"""What the server remembers and the rules it follows. No HTTP, no faults.

Seen on a real 1.18.3: a snapshot's name holds the second, so two creates in one second replace each other;
files of deleted collections and of failed uploads stay, unreachable, and reappear with a collection of that
name; an upload to an alias overwrites the aliased collection and leaves its file under the alias; a restore
into a new name brings config, metadata and payload indexes, not aliases; into an existing one only points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import RLock
from typing import Any

from tests.standin import config as configs
from tests.standin import engine
from tests.standin.engine import Content, Point

PEER_ID = 2841235159689269
_inodes = itertools.count(0x9AA000)


class RefusedError(Exception):
    """The server's error, as status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A file in the server's snapshots folder."""

    data: bytes
    checksum: str
    """sha256; empty for uploaded files: the server computes it only for those it made."""
    modified: datetime
    inode: int = field(default_factory=lambda: next(_inodes))

    @property
    def etag(self) -> str:
        seconds = int(self.modified.timestamp())
        return f'"{self.inode:x}:{len(self.data):x}:{seconds:x}:{self.inode * 7919:x}"'


@dataclass(slots=True)
class Collection:
    name: str
    config: dict[str, Any]
    payload_index: dict[str, Any] = field(default_factory=dict)
    points: dict[int | str, Point] = field(default_factory=dict)
    operations: int = 0
    genuine: bytes | None = None
    """A snapshot of just this state; dropped by the next change."""

    def content(self) -> Content:
        return Content(self.config, self.payload_index, tuple(self.sorted_points()))

    def sorted_points(self) -> list[Point]:
        """Numbers before UUIDs, as the server scrolls."""
        return sorted(self.points.values(), key=lambda point: (isinstance(point["id"], str), point["id"]))

    def changed(self, operations: int = 1) -> int:
        self.genuine = None
        self.operations += operations
        return self.operations


@dataclass(slots=True)
class State:
    """All collections, aliases and snapshot files. Callers hold `lock`."""

    peers: int = 1
    peer_id: int = PEER_ID
    clock: Callable[[], datetime] = _utc_now
    collections: dict[str, Collection] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, SnapshotFile]] = field(default_factory=dict)
    """Folder (a collection's name, also of one that is gone) to file name to file."""
    lock: RLock = field(default_factory=RLock)

    def now(self) -> datetime:
        """UTC, whole seconds."""
        return self.clock().astimezone(UTC).replace(microsecond=0)

    def find(self, name: str) -> Collection:
        """By name or alias."""
        collection = self.collections.get(self.aliases.get(name, name))
        if collection is None:
            raise _not_there(name)
        return collection

    # -- collections and aliases

    def create(self, name: str, body: dict[str, Any]) -> Collection:
        """Whatever it is called: an earlier version may have made it. A call for it meets `check_name` first."""
        if name in self.collections or name in self.aliases:
            raise RefusedError(409, f"Wrong input: Collection `{name}` already exists!")
        created = Collection(name, configs.from_request(body))
        self.collections[name] = created
        return created

    def delete(self, name: str) -> bool:
        """Its snapshot files stay. An alias is not followed: false, and nothing is deleted."""
        self.aliases = {alias: target for alias, target in self.aliases.items() if target != name}
        return self.collections.pop(name, None) is not None

    def change_alias(self, action: dict[str, Any]) -> None:
        match action:
            case {"create_alias": {"collection_name": target, "alias_name": alias}}:
                if target not in self.collections:  # an alias of an alias there is not
                    raise _not_there(target)
                if alias in self.collections:
                    raise RefusedError(409, f"Wrong input: Collection `{alias}` already exists!")
                self.aliases[alias] = target
            case {"delete_alias": {"alias_name": alias}}:
                self.aliases.pop(alias, None)
            case {"rename_alias": {"old_alias_name": old, "new_alias_name": new}}:
                if old not in self.aliases:
                    raise RefusedError(404, f"Not found: Alias {old} does not exists!")
                self.aliases[new] = self.aliases.pop(old)
            case _:
                raise RefusedError(400, "Format error in JSON body: unknown alias action")

    # -- points

    def upsert(self, name: str, points: Iterable[Point]) -> int:
        collection = self.find(name)
        cosine = configs.cosine_vectors(collection.config)
        for point in points:
            vector = _stored(point.get("vector") or {}, cosine)
            collection.points[point["id"]] = {
                "id": point["id"],
                "payload": point.get("payload") or {},
                "vector": vector,
            }
        return collection.changed()

    def delete_points(self, name: str, ids: Iterable[int | str]) -> int:
        collection = self.find(name)
        for number in ids:
            collection.points.pop(number, None)
        return collection.changed()

    def create_index(self, name: str, field_name: str, schema: Any) -> int:
        collection = self.find(name)
        collection.payload_index[field_name] = schema
        return collection.changed(2)

    # -- snapshots

    def settle(self, name: str) -> list[Point]:
        """The points, with vectors to the bit as a snapshot has them: the engine normalises its own way."""
        collection = self.find(name)
        if collection.genuine is None:
            collection.genuine = engine.build(collection.content(), peer_id=self.peer_id)
            stored = engine.read(collection.genuine).points
            collection.points = {point["id"]: point for point in stored}
        return collection.sorted_points()

    def folder(self, name: str) -> dict[str, SnapshotFile]:
        return self.files.setdefault(name, {})

    def create_snapshot(self, name: str, *, by_another: bool = False, at: datetime | None = None) -> str:
        """Its name, which holds the second it begins in (`at`: or that). `by_another`: with another checksum."""
        now = at or self.now()
        collection = self.find(name)
        content = collection.content()
        data = None if by_another else collection.genuine
        if data is None:
            data = engine.build(content, peer_id=self.peer_id, mtime=int(by_another))
        snapshot = f"{collection.name}-{self.peer_id}-{now:%Y-%m-%d-%H-%M-%S}.snapshot"
        self.folder(collection.name)[snapshot] = SnapshotFile(data, engine.sha256(data), now)
        return snapshot

    def snapshots(self, name: str) -> dict[str, SnapshotFile]:
        return dict(sorted(self.folder(self.find(name).name).items()))

    def snapshot(self, name: str, snapshot: str) -> SnapshotFile:
        file = self.snapshots(name).get(snapshot)
        if file is None:
            raise RefusedError(404, f"Not found: Snapshot {snapshot} not found")
        return file

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        self.snapshot(name, snapshot)
        del self.folder(self.find(name).name)[snapshot]

    def keep(self, name: str, filename: str, data: bytes) -> None:
        """What was uploaded, before anything is made of it."""
        filename = filename.replace("\\", "/").rsplit("/", 1)[-1]
        self.folder(name)[filename] = SnapshotFile(data, "", self.now())

    def restore(self, name: str, data: bytes) -> Collection:
        content = self._readable(name, data)
        collection = self.collections.get(self.aliases.get(name, name))
        if collection is None:
            collection = Collection(name, content.config, dict(content.payload_index))
            self.collections[name] = collection
            if content.config["params"].get("sharding_method") == "custom":  # its shard keys do not come with it
                content = replace(content, points=())
        else:
            configs.check_compatible(collection.config, content.config, RefusedError)
        collection.points = {point["id"]: point for point in content.points}
        collection.changed(len(content.points) > 0)
        return collection

    def _readable(self, name: str, data: bytes) -> Content:
        folder = f"/qdrant/storage/tmp/col-{name}-recovery-Yekbxs"
        try:
            content = engine.read(data)
        except engine.UnreadableError as error:
            text = str(error).replace("TMP", folder)
            raise RefusedError(500, f"Service internal error: {text}") from error
        if content.missing_shards and self.peers == 1:
            missing = f"{folder}/{content.missing_shards[0]}"
            raise RefusedError(
                500,
                "Service internal error: Can't restore snapshot in local mode with missing data at shard: " + missing,
            )
        return content


def _not_there(name: str) -> RefusedError:
    return RefusedError(404, f"Not found: Collection `{name}` doesn't exist!")


def check_name(name: str) -> None:
    """Recorded with "/"; the other characters by the source (common/validation.rs), in its order."""
    if refused := next((char for char in '<>:"/\\|?*\0\x1f' if char in name), ""):
        raise RefusedError(
            422,
            f'Validation error in path parameters: [collection_name: collection name cannot contain "{refused}" char]',
        )
    if not 1 <= len(name) <= 255:
        raise RefusedError(
            422,
            f'Validation error in path parameters: [collection_name: value "{name}" invalid, '
            "must be from 1 to 255 characters]",
        )
    if name == "..":
        raise RefusedError(500, "Service internal error: Invalid path to delete: ./storage/collections/..")


def _stored(vector: Any, cosine: set[str]) -> Any:
    """32-bit floats, and of unit length where the distance is cosine."""
    if isinstance(vector, list):
        return _dense(vector, unit="" in cosine)
    return {
        name: _dense(part, unit=name in cosine) if isinstance(part, list) else _sparse(part)
        for name, part in vector.items()
    }


def _dense(vector: list[float], *, unit: bool) -> list[float]:
    length = (math.sqrt(sum(part * part for part in vector)) if unit else 1.0) or 1.0
    return [engine.shortest(part / length) for part in vector]


def _sparse(vector: dict[str, Any]) -> dict[str, Any]:
    return {
        "indices": list(vector["indices"]),
        "values": [engine.shortest(value) for value in vector["values"]],
    }
