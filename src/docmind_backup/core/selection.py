"""Which part of a backup comes back, and how two `.env` files compare without their values. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from docmind_backup.core.model import Part, QdrantRecord, Record, SourceRecord, Totals
from docmind_backup.core.restore import SIDECARS
from docmind_backup.errors import UsageError


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a backup is wanted; everything, unless one of these says otherwise."""

    only: frozenset[Part] = frozenset()
    collections: tuple[str, ...] = ()
    """Only these of the server's collections, and nothing else unless `only` names it."""
    include_env: bool = False
    force: bool = False
    """Replace a `.env` that is there."""
    to: str = ""
    """A folder beside the live environment; the server's collections stay away from it."""
    skip_damaged: bool = False
    read_back: bool = True
    """Read every large file again where it lies."""

    @property
    def parts(self) -> frozenset[Part]:
        """Empty: all of them."""
        named = self.only | (frozenset({Part.QDRANT}) if self.collections else frozenset())
        return named | {Part.ENV} if named and self.include_env else named

    @property
    def wants_env(self) -> bool:
        return self.include_env or Part.ENV in self.only

    def options(self) -> tuple[str, ...]:
        """The words of a command line that choose the same."""
        switches = {
            "--include-env": self.include_env,
            "--force": self.force,
            "--skip-damaged": self.skip_damaged,
            "--no-read-back": not self.read_back,
        }
        return (
            *(("--only", ",".join(sorted(self.only))) if self.only else ()),
            *(word for name in self.collections for word in ("--collection", name)),
            *(("--to", self.to) if self.to else ()),
            *(switch for switch, given in switches.items() if given),
        )

    def document(self) -> dict[str, Any]:
        """For a plan in a file; `read_selection` reads it."""
        return {
            "only": sorted(self.only),
            "collections": list(self.collections),
            "include_env": self.include_env,
            "force": self.force,
            "to": self.to,
            "skip_damaged": self.skip_damaged,
            "read_back": self.read_back,
        }


def read_selection(data: Any) -> Selection:
    """Raises ValueError, TypeError or KeyError when it is none."""
    return Selection(
        frozenset(Part(part) for part in data["only"]),
        tuple(str(name) for name in data["collections"]),
        data["include_env"] is True,
        data["force"] is True,
        str(data["to"]),
        data["skip_damaged"] is True,
        data["read_back"] is True,
    )


def narrow(record: Record, wanted: Selection) -> Record:
    """The record as if the backup held only what is wanted. UsageError when it holds nothing of it."""
    parts = wanted.parts
    sources = tuple(s for s in record.sources if not parts or s.part in parts)
    _refuse_beside(record, wanted, sources)
    embedded = record.qdrant is not None and record.qdrant.embedded
    if wanted.collections and (embedded or record.qdrant is None):
        raise UsageError(
            "--collection names collections of a server, and the backup holds none",
            hint="an embedded storage comes back as a whole: --only qdrant" if embedded else "",
        )
    qdrant = record.qdrant if not parts or Part.QDRANT in parts else None
    if qdrant and not qdrant.embedded:
        qdrant = None if wanted.to else _chosen(qdrant, wanted.collections)
    if not sources and qdrant is None:
        raise UsageError(
            f"the backup holds nothing of what was asked for: {', '.join(sorted(parts))}",
            hint=f"it holds {', '.join(record.included)}",
        )
    return replace(
        record,
        sources=sources,
        qdrant=qdrant,
        totals=_totals(sources, qdrant),
        included=tuple(part for part in record.included if not parts or part in parts),
        omissions=tuple(o for o in record.omissions if not parts or o.part in parts),
    )


def _refuse_beside(record: Record, wanted: Selection, sources: Iterable[SourceRecord]) -> None:
    """A folder takes no collection of a server: where one is named, or nothing else would come."""
    on_server = record.qdrant is not None and not record.qdrant.embedded
    nothing_else = _asks_qdrant(wanted) and not tuple(sources)
    if wanted.to and on_server and (wanted.collections or nothing_else):
        raise UsageError(
            "--to takes files: collections of a server do not go to a folder",
            hint="leave --to out and they go to the target's Qdrant; their files are in qdrant/ of the backup",
        )


def _chosen(qdrant: QdrantRecord, names: Iterable[str]) -> QdrantRecord:
    wanted, held = set(names), {taken.name for taken in qdrant.collections}
    if wanted - held:
        raise UsageError(
            f"the backup does not hold: {', '.join(sorted(wanted - held))}", hint=f"it holds {', '.join(sorted(held))}"
        )
    return replace(qdrant, collections=tuple(c for c in qdrant.collections if not wanted or c.name in wanted))


def _totals(sources: Iterable[SourceRecord], qdrant: QdrantRecord | None) -> Totals:
    files = sum((source.totals for source in sources), Totals())
    if qdrant is None or qdrant.embedded:
        return files
    return files + Totals(files=len(qdrant.collections), bytes=sum(taken.size for taken in qdrant.collections))


TOGETHER = (Part.STORAGE, Part.IDENTITY, Part.UPLOADS, Part.ARTIFACTS, Part.QDRANT)
"""What DocMind makes of one moment: its index refers to all of it."""


def partial(whole: Record, narrowed: Record, wanted: Selection) -> Iterator[str]:
    """What a choice leaves behind that belongs to what it takes, in a sentence."""
    collections = narrowed.qdrant.collections if narrowed.qdrant else ()
    if wanted.to:
        if whole.qdrant and not whole.qdrant.embedded and whole.qdrant.collections and _asks_qdrant(wanted):
            yield f"--to takes files: collections stay out ({len(whole.qdrant.collections)} in the backup)"
        return
    comes = {part for part in TOGETHER if part in narrowed.included}
    stays = [str(part) for part in TOGETHER if part in whole.included and part not in comes]
    if Part.QDRANT in comes and whole.qdrant and len(collections) < len(whole.qdrant.collections):
        stays.append("other collections")
    if comes and stays:
        yield f"only a part of what belongs together comes back; as they are now stay: {', '.join(stays)}"


def _asks_qdrant(wanted: Selection) -> bool:
    return not wanted.parts or Part.QDRANT in wanted.parts


# -- single files --------------------------------------------------------------------------------------


def wanted_files(record: Record, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(a place in a backup that one of `names` may mean, where it goes); a database brings its sidecars.

    `uploads/a.pdf` is `data/uploads/a.pdf`: what lies in the data directory is known by its name there.
    """
    suffixes = {source.stored: SIDECARS.get(source.kind, ()) for source in record.sources}
    found: list[tuple[str, str]] = []
    for name in names:
        plain = name.strip("/")
        if any(step in ("", ".", "..") for step in plain.split("/")):
            raise UsageError(f"'{name}' is not a path inside a backup", hint="as in uploads/report.pdf")
        for root in (plain, f"data/{plain}"):
            found += ((root + suffix, plain + suffix) for suffix in ("", *suffixes.get(root, ())))
    return tuple(dict.fromkeys(found))


def destinations(stored: str, wanted: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Where a stored path goes below the folder that was asked for: to each place that was named, once."""
    found = (goes + stored[len(root) :] for root, goes in wanted if stored == root or stored.startswith(f"{root}/"))
    return tuple(dict.fromkeys(found))


# -- .env ----------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """How one key of two `.env` files compares."""

    SAME = "same"
    DIFFERS = "differs"
    ONLY_BACKUP = "only in the backup"
    ONLY_HERE = "only here"


_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=(.*)")


def compare_env(backup: str, here: str) -> Iterator[tuple[str, Verdict]]:
    """Key by key, sorted; never a value."""
    theirs, ours = _keys(backup), _keys(here)
    for key in sorted({*theirs, *ours}):
        if key not in ours:
            yield key, Verdict.ONLY_BACKUP
        elif key not in theirs:
            yield key, Verdict.ONLY_HERE
        else:
            yield key, Verdict.SAME if theirs[key] == ours[key] else Verdict.DIFFERS


def _keys(text: str) -> dict[str, str]:
    """The last of two lines with one key counts; quotes around a value do not."""
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return {match[1]: match[2].strip().strip("'\"") for match in found if match}
