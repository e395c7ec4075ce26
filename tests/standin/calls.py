"""A call on the REST surface, taken apart, and the four shapes an answer can have. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.standin.faults import Faults
from tests.standin.state import RefusedError, SnapshotFile, State


@dataclass(frozen=True, slots=True)
class Call:
    """A request, taken apart."""

    state: State
    faults: Faults
    version: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes
    later: Callable[[Callable[[], object]], None]
    """Runs something when the create gate opens, in another thread if it is closed."""

    @property
    def wait(self) -> bool:
        return self.query.get("wait", "true") == "true"

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except json.JSONDecodeError as error:
            what = "key must be a string" if "property name" in error.msg else "expected value"
            raise RefusedError(
                400, f"Format error in JSON body: {what} at line {error.lineno} column {error.colno}"
            ) from error


@dataclass(frozen=True, slots=True)
class Reply:
    """`result` goes into the envelope {"result", "status", "time"}."""

    result: Any


@dataclass(frozen=True, slots=True)
class Plain:
    """A body outside the envelope."""

    body: bytes
    content_type: str
    status: int = 200


@dataclass(frozen=True, slots=True)
class Accepted:
    """202 {"status": "accepted", "time"}."""


@dataclass(frozen=True, slots=True)
class Download:
    """A snapshot's bytes; the wire sees to ranges and compression."""

    name: str
    file: SnapshotFile


Outcome = Reply | Plain | Accepted | Download


def dumps(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
