"""What lies beside backups, and what comes from others, tampered with: each reader ends in words and touches nothing.

Seals, holds, briefs, notes about servers, journals and plans of a restore, other tools' manifests, snapshot tars, and
collections whose names would lead elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tests.catalogs import NOON
from tests.core.test_journal import JOURNAL
from tests.fakes import FakeServer
from tests.faults import fuzz
from tests.faults.trials import Finding
from tests.foreigners import ai_memory_at, docmind_at
from tests.snapshots import checksummed, recorded

from docmind_backup import briefs, documents, foreign, leftovers, restores, scratch_collections, snapshot_tar
from docmind_backup.briefs import Briefs
from docmind_backup.catalog import BRIEFS, Catalog
from docmind_backup.core import format as fmt
from docmind_backup.core.journal import journal_bytes
from docmind_backup.core.model import Deep, Round, Seal
from docmind_backup.core.planner import folder_name
from docmind_backup.errors import BackupError
from docmind_backup.journal import RestoreFolder
from docmind_backup.ledger import Begun, Ledger
from docmind_backup.looking import Look
from docmind_backup.rounds import Extent, Verifier

NAMES = ("..", ".", "", "/", "\\", "\0", "a/../b", "/etc/passwd", "\n", "\u202e", "\ud800", "%2e%2e", "con", "é" * 300)


@dataclass(frozen=True, slots=True)
class Reader:
    """A file, and what reads it."""

    name: str
    path: Path
    look: Callable[[], object]


def cases(folder: Path, seeds: Sequence[int]) -> list[Finding]:
    """What broke, of a case for each seed."""
    folder.mkdir()
    readers = tuple(_readers(folder))
    return [finding for seed in seeds for finding in _case(readers, folder, seed)]


def _case(readers: Sequence[Reader], top: Path, seed: int) -> Iterator[Finding]:
    chance = random.Random(seed)
    if problem := _named(chance):
        yield Finding("fuzz", "collection name", f"seed {seed}", problem)
    reader = chance.choice(readers)
    good = reader.path.read_bytes()
    before = fuzz._names(top)
    fuzz._overwrite(reader.path, _tampered(good, chance, reader.name))
    problem = _looked_at(reader)
    fuzz._overwrite(reader.path, good)
    if not problem and fuzz._names(top) != before:
        problem = "something was made or removed"
    if problem:
        yield Finding("fuzz", reader.name, f"seed {seed}", problem)


def _tampered(good: bytes, chance: random.Random, name: str) -> bytes:
    """A snapshot's headers keep their sums now and then: then the fields behind them are reached."""
    if name == "briefs":
        digest, _, body = good.partition(b"\n")
        return digest + b"\n" + fuzz.mutated(body, chance, fmt.MANIFEST)[0]
    if name != "snapshot":
        return fuzz.mutated(good, chance, fmt.MANIFEST)[0]
    at = 512 * chance.randrange(len(good) // 512)
    block = fuzz.mutated(good[at : at + 512], chance, name)[0][:512].ljust(512, b"\0")
    return good[:at] + (checksummed(block) if chance.random() < 0.7 else block) + good[at + 512 :]


def _looked_at(reader: Reader) -> str:
    try:
        with suppress(BackupError, foreign.NotUsable):
            reader.look()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def _named(chance: random.Random) -> str:
    """Whatever the server calls a collection, its folder is one plain name."""
    name = "".join(
        chance.choice((*NAMES, chr(chance.randrange(0x110000)), "docs")) for _ in range(chance.randint(1, 4))
    )
    folder = folder_name(name)
    plain = folder not in ("", ".", "..") and "/" not in folder and min(folder) >= " " and len(folder.encode()) <= 200
    return "" if plain and fmt.contained(f"qdrant/{folder}/x") else f"{name!r} becomes {folder!r}"


# -- who reads what ------------------------------------------------------------------------------


def _readers(folder: Path) -> Iterator[Reader]:
    backup = fuzz.made(folder)
    catalog = Catalog(backup.parent)
    yield from _memories(backup, catalog)
    yield from _notes(folder / "state")
    yield from _restores(folder / "restores")
    yield from _others(folder)
    path = folder / "text.snapshot"
    path.write_bytes(recorded("text"))
    yield Reader("snapshot", path, lambda: (snapshot_tar.check(path), snapshot_tar.describe(path)))


def _memories(backup: Path, catalog: Catalog) -> Iterator[Reader]:
    digest = fmt.record_digest((backup / fmt.RECORD).read_bytes())
    under_way, deep = Round(NOON, 2, 2000, "0" * 64), Deep(NOON, {"docs": (3, "0" * 64)})
    seal = Seal(digest, NOON, "deep", True, "0" * 64, under_way, deep, rehearsed_at=NOON, unread_at=NOON)
    assert catalog.remember(backup, seal)
    catalog.hold(catalog.read(backup), "golden")

    def listed() -> None:
        documents.listing(catalog.items())
        for extent in (Extent(percent=10), Extent(deep=True, max_age=timedelta(days=1))):
            verifier = Verifier(Look(catalog, lambda: NOON), [backup], extent)
            for found in catalog.backups():
                verifier._is_fresh(found)

    for kind in ("seals", "holds"):
        (path,) = (catalog.root / ".state" / kind).iterdir()
        yield Reader(kind, path, listed)
    yield _briefs(backup, catalog)


def _briefs(backup: Path, catalog: Catalog) -> Reader:
    """What was made of it, and, its digest made right, what is in it."""
    path, raw = catalog.root / ".state" / BRIEFS, (backup / fmt.RECORD).read_bytes()
    fields = fmt.brief_fields(*fmt.read_record_and_digest(raw))
    path.write_bytes(_with_digest(json.dumps({hashlib.sha256(raw).hexdigest(): fields}).encode()))

    def listed() -> None:
        documents.listing(catalog.items(brief=True))
        body = path.read_bytes().partition(b"\n")[2]
        Briefs(path, _with_digest(body)).record(raw)

    return Reader("briefs", path, listed)


def _with_digest(body: bytes) -> bytes:
    return briefs._digest(body) + b"\n" + body


def _notes(state: Path) -> Iterator[Reader]:
    server = FakeServer(now=NOON)
    server.add("docs", 3)
    server.put("docs", "docs-1-2026-01-01-12-00-00.snapshot", b"x")
    ledger = Ledger(state / "servers")
    ledger.write(Begun("20260101_120000_0123456789ab", server.url, "docs", NOON.isoformat(), (("old", "0" * 64),)))
    (path,) = (state / "servers").iterdir()
    yield Reader("note", path, lambda: documents.leftovers(leftovers.look(ledger, state / "scratch", server)))
    scratch = state / "scratch" / "0123456789abcdef.json"
    scratch.parent.mkdir()
    name = "docmind-backup-scratch-20260101_120000-0123456789abcdef"
    note = {
        "url": server.url,
        "name": name,
        "file": "docmind-backup-0123456789abcdef.snapshot",
        "asked_at": NOON.isoformat(),
    }
    scratch.write_text(json.dumps(note) + "\n")
    yield Reader(
        "scratch note", scratch, lambda: scratch.stat().st_size and list(scratch_collections._dead(scratch.parent))
    )


def _restores(home: Path) -> Iterator[Reader]:
    folder = RestoreFolder(home)
    folder.path.mkdir(parents=True)
    journal = folder.path / "journal.json"
    journal.write_bytes(journal_bytes(JOURNAL))
    yield Reader("journal", journal, lambda: (found := folder.unfinished()) and (found.listed_in, found.keeps_anything))
    plan = home / "plan.json"
    selection = {"parts": ["chat"], "collections": [], "include_env": False, "force": False, "to": ""}
    selection |= {"skip_damaged": False, "read_back": True}
    document = {"directory": "/backups/x", "backup": "x", "selection": selection, "steps": [], "target": {"/data": "1"}}
    restores.write_plan(plan, document)

    def planned() -> None:
        _, wanted, found = restores.read_plan(plan)
        restores.refuse_outdated(found, {**document, "selection": wanted.document()})

    yield Reader("plan", plan, planned)


def _others(folder: Path) -> Iterator[Reader]:
    for name, backup in (
        ("DocMind's", docmind_at(folder / "docmind-made")),
        ("ai-memory's", ai_memory_at(folder / "ai")),
    ):

        def look(backup: Path = backup) -> None:
            found = foreign.look(backup)
            if found:
                documents.verification(foreign.verify(backup, found, quick=True))
            Catalog(backup.parent).items()

        yield Reader(f"{name} manifest", backup / "manifest.json", look)
        for path in sorted(backup.glob("data/storage/*/manifest.*"))[:3]:
            yield Reader(f"{name} {path.name}", path, look)
