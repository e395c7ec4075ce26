"""Say what lies on the server, and whose it is: snapshots, and what rehearsals left. Read-only.

Of a silent server, only what was written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from docmind_backup.core.qdrant_rest import delete_command, same_address
from docmind_backup.core.server import CollectionServer, ServerSnapshot
from docmind_backup.errors import QdrantError, QdrantUnreachable
from docmind_backup.ledger import Begun, Ledger
from docmind_backup.scratch_collections import Note, noted


class Whose(StrEnum):
    """Who made a snapshot, as far as anybody can know: the server keeps no owner."""

    OURS = "ours"
    """A run of this catalog was told that it was made for it."""
    CANDIDATE = "candidate"
    """It appeared after a create call of ours that was never answered."""
    OTHER = "other"


class Standing(StrEnum):
    """What a note waits for."""

    LISTED = "listed"
    """The next create deletes it, unless it belongs to a run that is going on."""
    GONE = "gone"
    """Somebody else deleted or replaced it: the next create forgets it."""
    IN_USE = "in use"
    """By a rehearsal that is going on."""
    OUT_OF_REACH = "out of reach"
    """Its collection is gone; it reappears when a collection of that name is made again."""
    UNANSWERED = "unanswered"
    """What the call brings forth, if anything, is a candidate."""
    ELSEWHERE = "elsewhere"
    """It is about a server at another address."""
    UNKNOWN = "unknown"
    """The server could not be asked."""


@dataclass(frozen=True, slots=True)
class Lying:
    """A snapshot on the server."""

    collection: str
    snapshot: ServerSnapshot
    whose: Whose
    command: str
    """What removes it; empty for another's, which is not ours to remove."""


@dataclass(frozen=True, slots=True)
class Noted:
    """What a run wrote down before it made a snapshot, and what became of it."""

    begun: Begun
    file: Path
    """Removing it makes this tool forget."""
    standing: Standing


@dataclass(frozen=True, slots=True)
class Scratch:
    """What a rehearsal wrote down before it made a collection of its own, and what became of it."""

    note: Note
    file: Path
    standing: Standing
    """UNANSWERED: nothing is there (yet)."""
    command: str
    """What removes it: its uploaded file, then the collection; empty where it is not there, or in use."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    url: str
    """Of the server; empty where there is none to ask."""
    snapshots: tuple[Lying, ...] = ()
    notes: tuple[Noted, ...] = ()
    scratch: tuple[Scratch, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()
    """Collections whose snapshots could not be listed, each with the reason."""
    problem: str = ""
    """Why the server could not be asked at all."""

    @property
    def exit_code(self) -> int:
        """5 when not everything could be looked at."""
        return 5 if self.problem or self.unread else 0


def look(ledger: Ledger, rehearsals: Path, server: CollectionServer) -> Leftovers:
    """All snapshots of all collections on the server, and every note; what cannot be asked is said.

    `rehearsals`: the folder of their notes.
    """
    notes, scratch = ledger.files(), noted(rehearsals)
    here = [note for _, note in notes if same_address(note.url, server.url)]
    listed: dict[str, tuple[ServerSnapshot, ...]] = {}
    unread: list[tuple[str, str]] = []
    try:
        for name in server.names():
            try:
                listed[name] = server.snapshots(name)
            except QdrantUnreachable:
                raise
            except QdrantError as error:
                unread.append((name, str(error)))
    except QdrantError as error:
        return unasked(ledger, rehearsals, server.url, str(error))
    skipped = {name for name, _ in unread}
    uploaded = {(note.name, note.file) for _, note, _ in scratch if same_address(note.url, server.url)}
    return Leftovers(
        server.url,
        tuple(_lying(server.url, here, uploaded, listed)),
        tuple(Noted(note, file, _standing(note, server.url, listed, skipped)) for file, note in notes),
        tuple(_scratch(file, note, server.url, {*listed, *skipped}, held=held) for file, note, held in scratch),
        tuple(unread),
    )


def unasked(ledger: Ledger, rehearsals: Path, url: str, problem: str) -> Leftovers:
    """Only the notes."""

    def standing(of: str) -> Standing:
        return Standing.UNKNOWN if same_address(of, url) else Standing.ELSEWHERE

    return Leftovers(
        url,
        notes=tuple(Noted(note, file, standing(note.url)) for file, note in ledger.files()),
        scratch=tuple(Scratch(note, file, standing(note.url), "") for file, note, _ in noted(rehearsals)),
        problem=problem,
    )


def _scratch(file: Path, note: Note, url: str, there: set[str], *, held: bool) -> Scratch:
    if not same_address(note.url, url):
        return Scratch(note, file, Standing.ELSEWHERE, "")
    if held:
        return Scratch(note, file, Standing.IN_USE, "")
    if note.name not in there:
        return Scratch(note, file, Standing.UNANSWERED, "")
    command = f"{delete_command(url, note.name, note.file)}; {delete_command(url, note.name)}"
    return Scratch(note, file, Standing.LISTED, command)


def _lying(
    url: str,
    notes: Sequence[Begun],
    uploaded: set[tuple[str, str]],
    listed: dict[str, tuple[ServerSnapshot, ...]],
) -> Iterator[Lying]:
    """`uploaded`: collections of rehearsals, each with the file that is theirs."""
    for collection, snapshots in listed.items():
        begun = [note for note in notes if note.collection == collection]
        for snapshot in snapshots:
            whose = Whose.OURS if (collection, snapshot.name) in uploaded else _whose(snapshot, begun)
            command = "" if whose is Whose.OTHER else delete_command(url, collection, snapshot.name)
            yield Lying(collection, snapshot, whose, command)


def _whose(snapshot: ServerSnapshot, notes: Sequence[Begun]) -> Whose:
    if any(note.is_ours(snapshot) for note in notes):
        return Whose.OURS
    return Whose.CANDIDATE if any(note.might_be_ours(snapshot) for note in notes) else Whose.OTHER


def _standing(note: Begun, url: str, listed: dict[str, tuple[ServerSnapshot, ...]], unread: set[str]) -> Standing:
    if not same_address(note.url, url):
        return Standing.ELSEWHERE
    if note.collection in unread:
        return Standing.UNKNOWN
    if note.collection not in listed:
        return Standing.OUT_OF_REACH
    if not note.name:
        return Standing.UNANSWERED
    return Standing.LISTED if any(map(note.is_ours, listed[note.collection])) else Standing.GONE
