"""What `list` and `prune` need of records, remembered by the sha256 of a record's bytes. Losing it costs time only.

A record is read and hashed each time all the same; only parsing and proving it again is saved. Damage in the
memory itself is seen by its own digest, and then nothing is remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from docmind_backup import __version__, durable
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Record

WORTH = 50
"""Records that had to be parsed before their memory is written: below that, reading them is as quick."""


class Briefs:
    """The memory in `path`: read when it is made, written by `save` where that is worth it and can be done."""

    def __init__(self, path: Path, raw: bytes) -> None:
        self._path = path
        self._known = _read(raw)
        self._seen: dict[str, Any] = {}
        self._new = 0

    def record(self, raw: bytes) -> tuple[Record, str]:
        """As `read_record_and_digest`, without sources, index snapshots, fingerprints and most about collections."""
        key = hashlib.sha256(raw).hexdigest()
        if key in self._known:
            with contextlib.suppress(ValueError):
                found = fmt.read_brief(self._known[key])
                self._seen[key] = self._known[key]
                return found
        record, digest = fmt.read_record_and_digest(raw)
        self._seen[key] = fields = fmt.brief_fields(record, digest)
        self._new += 1
        return fmt.read_brief(fields)

    def save(self) -> None:
        """Best effort: what was read now, and nothing of backups that are gone. In nobody else's catalog."""
        if self._new < WORTH:
            return
        body = json.dumps(self._seen, separators=(",", ":")).encode()
        folder = self._path.parent
        with contextlib.suppress(OSError):
            durable.refuse_links(folder)
            if folder.parent.stat().st_uid == os.geteuid():
                folder.mkdir(mode=0o700, exist_ok=True)
                durable.replace(self._path, _digest(body) + b"\n" + body)


def _read(raw: bytes) -> dict[str, Any]:
    digest, _, body = raw.partition(b"\n")
    if digest != _digest(body):
        return {}
    try:
        known = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _digest(body: bytes) -> bytes:
    """With the version: another one may ask for more than was remembered."""
    return hashlib.sha256(f"{__version__}\n".encode() + body).hexdigest().encode()
