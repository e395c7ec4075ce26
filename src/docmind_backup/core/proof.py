"""What an engine proved of a stored file, how it is held against the record, and the digest of points. No I/O."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from docmind_backup.core.model import CollectionRecord

_AS_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


class PointsDigest:
    """sha256 over the points of a collection in the order of their ids, numbers first: ids and payloads, no vectors.

    A line each: `[id, payload]` as JSON with sorted keys, no spaces, everything beyond ASCII escaped; the id a number,
    or a UUID as text with dashes; no payload is `{}`. Two collections with the same digest hold the same.
    Cosine vectors come back normalised and differ in their last bits from one version of the engine to the next.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.points = 0

    def add(self, id_: int | str, payload: Mapping[str, Any] | None) -> None:
        self._digest.update(f"{_AS_JSON([id_, payload or {}])}\n".encode())
        self.points += 1

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def point_order(id_: int | str) -> tuple[int, int, str]:
    """Sorts ids as the engine does: numbers, then UUIDs."""
    return (0, id_, "") if isinstance(id_, int) else (1, 0, id_)


@dataclass(frozen=True, slots=True)
class Proof:
    """A collection as Qdrant's engine found it in a snapshot."""

    points: int
    """Exact, with what is only in the write-ahead log: what a server that restores it has."""
    digest: str
    """Of ids and payloads: `PointsDigest`; empty when the engine cannot say (an embedded collection)."""
    in_segments: int
    """Points without the write-ahead log."""
    shards: Mapping[str, int] = field(default_factory=dict[str, int])
    """Points of each shard that is in the snapshot."""
    elsewhere: tuple[str, ...] = ()
    """Shards that the snapshot names and does not hold: they are on another node."""
    vectors: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many points have each named vector (`` is the unnamed one)."""
    engine: str = ""
    """Name and version."""

    @property
    def whole(self) -> bool:
        return not self.elsewhere


def lack(taken: CollectionRecord, proof: Proof) -> str:
    """Why the proof is not what the record says, a sentence; empty when it is, as far as it can be told."""
    low, high = taken.points_min, taken.points_max
    expected = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    if proof.points > high or (proof.whole and proof.points < low):
        return f"it has {points(proof.points)}, the record says {expected}"
    if proof.whole and not low <= proof.in_segments <= high:
        return (
            f"its segments hold {points(proof.in_segments)}, the record says {expected}: "
            "only its write-ahead log brings the others back"
        )
    return ""


_VERSION = re.compile(r"(\d+)\.(\d+)\.")
_KNOWN = (1, 16), (1, 20)
"""The oldest and newest servers whose snapshots the engine is known to open; before, RocksDB may lie in them."""


def unknown_to_engine(server: str) -> str:
    """Why the engine need not be able to open a snapshot of such a server, a sentence; empty when it has to."""
    match = _VERSION.match(server)
    if match and _KNOWN[0] <= (int(match[1]), int(match[2])) <= _KNOWN[1]:
        return ""
    old, new = (".".join(map(str, one)) for one in _KNOWN)
    whose = f"it was made by Qdrant {server}" if server else "nobody wrote down by which Qdrant it was made"
    return f"{whose}, and the engine is known to open those of {old} to {new}"


def points(count: int) -> str:
    return f"{count:,} point{'' if count == 1 else 's'}"


def shard_words(proof: Proof) -> str:
    """What of the collection is not in the snapshot; empty when it is whole."""
    held, named = len(proof.shards), len(proof.shards) + len(proof.elsewhere)
    return "" if proof.whole else f"{held} of {named} shards: the others are on another node"


# -- a whole backup ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProvedCollection:
    name: str
    path: str
    proof: Proof


@dataclass(frozen=True, slots=True)
class ProvedDatabase:
    path: str
    rows: Mapping[str, int]
    """Of each table."""
    engine: str


@dataclass(frozen=True, slots=True)
class Deepened:
    """What the engines said of all that can be opened in a backup."""

    collections: tuple[ProvedCollection, ...] = ()
    databases: tuple[ProvedDatabase, ...] = ()
    remarks: tuple[str, ...] = ()
    """Sentences for people: what is true, worth knowing, and no damage."""
