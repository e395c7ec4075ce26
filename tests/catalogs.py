"""Catalogs for the tests: one rich backup made by the command line, and as many copies of one as a test needs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.environments import DocMindV2, build_v2
from tests.standin import StandIn

from docmind_backup.catalog import name_of
from docmind_backup.cli import main
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Entry, FileEntry, Record

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""When the first clone was made; each further one a day later."""


def made_by_the_command_line(folder: Path, *options: str) -> Path:
    """A complete backup of everything: links, an empty folder, a name that is not UTF-8, uploads in flight."""
    with StandIn() as server, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("DOCMIND_", "QDRANT_"))]:
            patch.delenv(name)
        env = build_v2(folder / "docmind", server, in_flight=True)
        _add_oddities(env)
        everything = ("--include-analytics", "--include-logs", "--include-env", "--quiet", *options)
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["create", "-C", str(env.project), *everything]) == 0
    return only_backup(env.backups)


def _add_oddities(env: DocMindV2) -> None:
    (env.uploads / "elsewhere.pdf").symlink_to("/etc/hostname")
    (env.uploads / "empty folder").mkdir()
    Path(os.fsdecode(os.fsencode(env.uploads) + b"/r\xe9sum\xe9\n.pdf")).write_bytes(b"content")


def only_backup(root: Path) -> Path:
    """The one backup in a catalog."""
    (found,) = backups(root)
    return found


def backups(root: Path) -> list[Path]:
    """Everything in a catalog that has a backup's name, sorted by name."""
    return sorted(path for path in root.iterdir() if path.name.startswith(("backup_", "incomplete-backup_")))


def record(backup: Path) -> Record:
    return fmt.read_record((backup / fmt.RECORD).read_bytes())


def entries(backup: Path) -> dict[str, Entry]:
    """The inventory by path."""
    return {e.path: e for e in map(fmt.read_entry, (backup / fmt.INVENTORY).read_bytes().splitlines())}


# -- copies --------------------------------------------------------------------------------------


def clone(backup: Path, number: int, *, root: Path | None = None, **changes: Any) -> Path:
    """One more backup beside `backup` (or in `root`): sequence, id and times follow from `number`.

    `changes`: fields of its record, among them `id`, `sequence`, `started_at`, `scope`, `omissions`.
    """
    started_at = changes.get("started_at", NOON + timedelta(days=number))
    given = {
        "id": f"{started_at:%Y%m%d_%H%M%S}_{number:012x}",
        "sequence": number,
        "started_at": started_at,
        "finished_at": started_at + timedelta(seconds=1),
        **changes,
    }
    changed = replace(record(backup), **given)
    target = (root or backup.parent) / name_of(changed.id, complete=changed.complete)
    shutil.copytree(backup, target, symlinks=True)
    write_record(target, changed)
    return target


def write_record(backup: Path, changed: Record) -> None:
    """Put another record in a backup, consistent in itself."""
    overwrite(backup / fmt.RECORD, fmt.record_bytes(changed))


def rewrite(backup: Path, path: str, content: bytes) -> None:
    """Put other content in a stored file and make inventory, SHA256SUMS and record say so: a consistent forgery."""
    overwrite(backup / path, content)
    sha256 = hashlib.sha256(content).hexdigest()
    stored = entries(backup)
    entry = stored[path]
    assert isinstance(entry, FileEntry)
    stored[path] = replace(entry, size=len(content), sha256=sha256)
    overwrite(backup / fmt.INVENTORY, b"".join(map(fmt.entry_line, stored.values())))
    reseal(backup, {path: sha256})


def reseal(backup: Path, sha256s: Mapping[str, str] | None = None) -> None:
    """Make SHA256SUMS and the record agree with our own files as they are now (and with `sha256s`)."""
    own = {name: _sha256(backup / name) for name in (fmt.INVENTORY, fmt.MANIFEST, fmt.README)}
    known = dict(map(fmt.read_sums_line, (backup / fmt.SUMS).read_bytes().splitlines(keepends=True)))
    known |= {**(sha256s or {}), **own}
    overwrite(backup / fmt.SUMS, b"".join(fmt.sums_line(name, digest) for name, digest in known.items()))
    write_record(backup, replace(record(backup), digests={**own, fmt.SUMS: _sha256(backup / fmt.SUMS)}))


def overwrite(path: Path, content: bytes) -> None:
    """Stored files are 0400; this keeps that."""
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o400)


def flip(path: Path, at: int, bit: int = 0) -> None:
    """One bit rots: size, mode and times stay as they were."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(top: Path) -> dict[str, tuple[Any, ...]]:
    """Every path below `top` and what it is, access times apart: for a comparison of before and after."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        what = os.readlink(path) if path.is_symlink() else path.is_file() and _sha256(path)
        found[str(path.relative_to(top))] = (status.st_mode, status.st_mtime_ns, what)
    return found


# -- other processes -----------------------------------------------------------------------------

HOLD = """
import fcntl, sys
held = open(sys.argv[1], "rb" if sys.argv[2] == "SH" else "ab")
fcntl.flock(held, getattr(fcntl, "LOCK_" + sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path, how: str = "EX") -> Iterator[int]:
    """Another process has a flock (`EX` or `SH`) on `path`; its number."""
    command = [sys.executable, "-c", HOLD, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.stdin.close()


def events(root: Path, name: str) -> list[dict[str, Any]]:
    """The events of that name, oldest first."""
    log = root / "events.jsonl"
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]
