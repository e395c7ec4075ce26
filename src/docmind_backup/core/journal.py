"""What a restore under way is, and which rename comes next, forwards or back. No I/O: looking is an argument."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, get_args, get_origin, get_type_hints

from docmind_backup.core.format import INVENTORY, contained
from docmind_backup.core.model import Kind, Part, SourceRecord

FORMAT = 1
RUN = re.compile(r"\Arollback-\d{8}T\d{6}Z-[0-9a-z_]+(?:-\d+)?\Z")
"""What a run's folder below the data directory is called; beside other places it has a dot in front."""
There = Callable[[str], bool]
"""Whether anything lies at a path, links not followed."""


# -- collections of a server: made elsewhere, moved by the same journal -----------------------------


class Notes(Protocol):
    """What one collection has to remember over a kill: its own part of the journal."""

    def get(self) -> dict[str, object]:
        """As it was put last; empty at first."""
        ...

    def put(self, state: Mapping[str, object]) -> None:
        """JSON values; on the disk when this returns."""
        ...


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was held against the record, where it lives now."""

    what: str
    found: str
    right: bool = True


class Returning(Protocol):
    """One collection on its way back. Each call may come again, in another process, after a kill within it."""

    @property
    def name(self) -> str: ...

    def prepare(self) -> None:
        """Prove, save and upload beside; nothing that the application uses has changed when this returns or raises."""
        ...

    def apply(self) -> None:
        """Make it the one that the application uses, and compare; `roll_back` still brings back what was there."""
        ...

    def check(self) -> tuple[Checked, ...]:
        """What the application finds now, asked for anew after `apply`; raises when it is not as recorded."""
        ...

    def roll_back(self) -> None:
        """As it was before `prepare`, with nothing of ours left; also when that never ran or did not end."""
        ...

    def discard(self) -> None:
        """Remove what `roll_back` would need: it is not wanted any more."""
        ...

    def left_behind(self) -> tuple[str, ...]:
        """What stays on the server and might be unexpected there, in words; asked before `discard`."""
        ...


# -- files ---------------------------------------------------------------------------------------------


class Phase(StrEnum):
    """How far a restore got."""

    STAGING = "staging"
    """What comes is being copied and prepared; nothing live was touched."""
    SWAPPING = "swapping"
    """Files, then collections, then the checks."""
    DONE = "done"
    """What was there is kept."""
    RETURNING = "returning"
    """What was there is on its way back."""
    UNDONE = "undone"
    """It is back, and what had been restored is kept."""
    DISCARDING = "discarding"
    """What is kept is being deleted."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One source of a backup on its way to where it belongs."""

    part: Part
    kind: Kind
    stored: str
    """Its root in the backup."""
    live: str
    """Where it goes: an absolute path."""
    folder: str
    """On the file system of `live`: below `new` it is staged, below `old` is kept what was there."""
    lines: tuple[int, int]
    """Where its entries stand in the inventory."""
    files: int
    bytes: int

    def staged(self, suffix: str = "") -> str:
        return f"{self.folder}/new/{self._name}{suffix}"

    def kept(self, suffix: str = "") -> str:
        return f"{self.folder}/old/{self._name}{suffix}"

    @property
    def _name(self) -> str:
        """Two sources may have files of the same name: each has a folder of its own."""
        return f"{self.stored.replace('/', '-').lstrip('.')}/{self.live.rpartition('/')[2]}"


@dataclass(frozen=True, slots=True)
class Swap:
    """One path that changes hands, by renames within its file system."""

    live: str
    staged: str
    """Where the new lies before the swap; on the way back, what has to leave goes there."""
    kept: str
    """Where the old goes."""
    comes: bool
    """Something new comes; else only the old leaves, as a stale sidecar does."""
    had: bool
    """Something was there when the swap began."""
    leaves: bool = False
    """On the way back: what lies there now has to go first."""


@dataclass(frozen=True, slots=True)
class Rename:
    old: str
    new: str


def ahead(swap: Swap, there: There) -> Rename | None:
    """What to do next so that the new is in its place; None when it is. Looking tells how far it got."""
    if swap.had and not there(swap.kept):
        return Rename(swap.live, swap.kept)
    if swap.comes and there(swap.staged):
        return Rename(swap.staged, swap.live)
    return None


def leaving(swap: Swap, there: There) -> Swap:
    """With what has to leave before the old comes back: the new, or a sidecar that the application made since."""
    new = not there(swap.staged) if swap.comes else there(swap.kept) or not swap.had
    return replace(swap, leaves=new and there(swap.live))


def back(swap: Swap, there: There) -> Rename | None:
    """What to do next so that the old is in its place again; None when it is."""
    if swap.leaves and not there(swap.staged):
        return Rename(swap.live, swap.staged)
    if swap.had and there(swap.kept):
        return Rename(swap.kept, swap.live)
    return None


# -- the journal -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Journal:
    """One restore: all that resuming it or taking it back needs to know."""

    run: str
    """Its name, and that of its folders."""
    backup_id: str
    directory: str
    """Of the backup."""
    taken_at: str
    """When the backup was made: what is younger is lost. ISO 8601."""
    began_at: str
    phase: Phase
    pieces: tuple[Piece, ...]
    folders: tuple[str, ...]
    """Where it keeps things: one on each file system it touches."""
    made: tuple[str, ...] = ()
    """Folders made because a place had none, parents first."""
    swaps: tuple[Swap, ...] = ()
    left_out: tuple[str, ...] = ()
    """Damaged files that were not brought back."""
    stays_out: tuple[tuple[str, str], ...] = ()
    """What of another tool's backup cannot come back, and why: known before anything was copied."""
    skip_damaged: bool = False
    read_back: bool = True
    """Large files are read again from the disk, too, before it is done."""
    aside: bool = False
    """To a folder beside the live environment: there is nothing to keep."""
    was_done: bool = False
    """It is taken back after its end: what had been restored may have been used since, and is kept."""
    collections: tuple[str, ...] = ()
    """Names of the server's collections that come back too."""
    notes: Mapping[str, Mapping[str, object]] = field(default_factory=dict[str, Mapping[str, object]])
    """Each collection's own."""
    inventory: str = ""
    """Of another tool's backup: made by this run, in its folder. Empty: the backup's own."""
    number: int = 0
    """Of the restores whose old state is kept: a later one has a greater one, whatever the clock did."""
    server: str = ""
    """Base URL of the server that collections come back to. Empty: to none, or nobody wrote it down."""

    @property
    def listed_in(self) -> str:
        """The inventory that the pieces' `lines` are of."""
        return self.inventory or f"{self.directory}/{INVENTORY}"

    def listing(self, sources: Iterable[SourceRecord]) -> Journal:
        """With each piece's lines where the inventory has them."""
        lines = {source.stored: source.lines for source in sources}
        return replace(self, pieces=tuple(replace(piece, lines=lines[piece.stored]) for piece in self.pieces))

    @property
    def keeps_anything(self) -> bool:
        """Whether paths were moved away, or collections replaced, that can be brought back."""
        replaced = (note.get("old") or note.get("way") == "alias" for note in self.notes.values())
        return any(swap.had for swap in self.swaps) or any(replaced)

    def noting(self, name: str, state: Mapping[str, object]) -> Journal:
        return replace(self, notes={**self.notes, name: dict(state)})


def absent(journal: Journal, there: There) -> tuple[str, ...]:
    """Folders of it that have to be there and are not: a file system that is not mounted, most likely."""
    keeping = journal.phase in (Phase.SWAPPING, Phase.DONE, Phase.UNDONE)
    return tuple(folder for folder in journal.folders if not there(folder)) if keeping else ()


def lost(journal: Journal, there: There) -> tuple[str, ...]:
    """Places whose old state left and is not where it was put: bringing back the rest would make a mix."""
    return tuple(
        swap.live
        for swap in journal.swaps
        if swap.had and not there(swap.kept) and _had_left(journal.phase, swap, there)
    )


def _had_left(phase: Phase, swap: Swap, there: There) -> bool:
    match phase:
        case Phase.SWAPPING:
            return swap.comes and not there(swap.staged)
        case Phase.DONE:
            return True
        case Phase.RETURNING:
            return not there(swap.live)
        case _:
            return False


def journal_bytes(journal: Journal) -> bytes:
    """ASCII JSON: bytes of a path that are not UTF-8 stand there as surrogate escapes."""
    return (json.dumps({"format": FORMAT, **asdict(journal)}, indent=1) + "\n").encode()


def read_journal(raw: bytes) -> Journal:
    """ValueError when it is not one of ours, or names a folder that is not a run's."""
    try:
        data = json.loads(raw)
        if data.pop("format") != FORMAT:
            raise ValueError("made by another version of this tool")
        journal = Journal(
            **{
                **data,
                "phase": Phase(data["phase"]),
                "pieces": tuple(_piece(one) for one in data["pieces"]),
                "swaps": tuple(Swap(**one) for one in data["swaps"]),
                "stays_out": tuple((str(what), str(why)) for what, why in data.get("stays_out", ())),
                **{name: tuple(data[name]) for name in ("folders", "made", "left_out", "collections")},
            }
        )
        everything: tuple[Journal | Piece | Swap, ...] = (journal, *journal.pieces, *journal.swaps)
        for one in everything:
            _refuse_other_types(one)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not the journal of a restore: {error}") from error
    return _checked(journal)


def _piece(data: Mapping[str, Any]) -> Piece:
    first, length = data["lines"]
    kinds = {"part": Part(data["part"]), "kind": Kind(data["kind"])}
    return Piece(**{**data, **kinds, "stored": contained(data["stored"]), "lines": (first, length)})


def _refuse_other_types(one: Journal | Piece | Swap) -> None:
    """JSON knows less than the fields do: a number where a path belongs is a TypeError."""
    for name, kind in get_type_hints(type(one)).items():
        value = getattr(one, name)
        values, kinds = (value, get_args(kind)[:1]) if get_origin(kind) is tuple else ((value,), (kind,))
        wanted = get_origin(kinds[0]) or kinds[0]
        if not all(type(each) is wanted or wanted not in (str, int, bool) for each in values):
            raise TypeError(f"{name} is {value!r}"[:200])
    if isinstance(one, Journal) and not all(isinstance(note, dict) for note in one.notes.values()):
        raise TypeError("a note is no object")


def _checked(journal: Journal) -> Journal:
    """Everything that will be moved or deleted lies in a folder of this run."""
    names = (journal.run, f".{journal.run}")
    if not RUN.match(journal.run) or any(folder.rpartition("/")[2] not in names for folder in journal.folders):
        raise ValueError("it names a folder that is not a run's")
    if journal.inventory not in ("", *(f"{folder}/{INVENTORY}" for folder in journal.folders)):
        raise ValueError("its inventory is not in a folder of its own")
    for swap in journal.swaps:
        for path in (swap.staged, swap.kept):
            if not any(path.startswith(f"{folder}/") for folder in journal.folders) or ".." in path.split("/"):
                raise ValueError("it moves something to a place that is not its own")
    return journal
