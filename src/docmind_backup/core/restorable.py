"""Another tool's backup as a restore needs it: with an inventory, and with what nobody can prove of it. No I/O.

What nobody wrote a sum of is measured once, before anything is copied; from then on it is held to that like ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from docmind_backup.core import format as fmt
from docmind_backup.core.foreign import Counts, Foreign, Maker
from docmind_backup.core.model import (
    UNCOUNTED,
    CollectionRecord,
    DirEntry,
    Entry,
    FileEntry,
    Kind,
    Layout,
    LinkEntry,
    Part,
    Record,
    SourceRecord,
)
from docmind_backup.core.restore import SIDECARS, Check

Measured = Mapping[str, tuple[int, str]]
"""Path to size and sha256, of the files that could be read."""
NOBODYS = "0" * 64
"""The sum of a file that could not be read: it is found damaged when it is copied."""
EXAMPLES = 3


def worth(foreign: Foreign) -> Record:
    """Its record, each number of points as the range that it stands for."""
    record, counts = foreign.record, foreign.counts
    if record.qdrant is None or counts is Counts.EXACT:
        return record
    taken = tuple(_worth(one, counts) for one in record.qdrant.collections)
    return replace(record, qdrant=replace(record.qdrant, collections=taken))


def _worth(taken: CollectionRecord, counts: Counts) -> CollectionRecord:
    """An estimate is up to twice the points there are, while Qdrant optimizes."""
    least = (taken.points_max + 1) // 2 if counts is Counts.ESTIMATE else 0
    return replace(taken, points_min=least, points_max=UNCOUNTED)


# -- what a plan says ----------------------------------------------------------------------------


def wrong(foreign: Foreign, record: Record) -> Iterator[str]:
    """Damage that shows before a byte is copied. `record`: what is wanted of it."""
    roots = [source.stored for source in record.sources]
    for path, what in foreign.problems:
        if any(_lies_in(path, root) for root in roots):
            yield fmt.printable(f"{path}: {what}")
    for source in record.sources:
        for entry in foreign.below(source.stored):
            if problem := _unusable(entry, source):
                yield fmt.printable(f"{entry.path}: {problem}")


def _lies_in(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def _unusable(entry: Entry, source: SourceRecord) -> str:
    """What no restore can bring back: it is left out."""
    if entry.path == source.stored and source.kind is Kind.TREE and not isinstance(entry, DirEntry):
        return "it should be a folder"
    if isinstance(entry, LinkEntry) and (source.kind is not Kind.TREE or not entry.target):
        return "it is no regular file"
    return ""


def caveats(foreign: Foreign, record: Record) -> Iterator[str]:
    """What nobody can prove, each a sentence of the plan."""
    known = {source.stored for source in record.sources}
    known |= {taken.path for taken in record.qdrant.collections} if record.qdrant else set()
    for what, why in foreign.unproved:
        if what in known:
            yield f"not provable: {fmt.printable(what)}: {why}"
    if foreign.stray:
        names = ", ".join(map(fmt.printable, foreign.stray[:EXAMPLES]))
        more = f" and {len(foreign.stray) - EXAMPLES} more" if len(foreign.stray) > EXAMPLES else ""
        yield f"its manifest does not know, so it stays out: {names}{more}"
    if record.sources:
        yield "modes, times and owners are those of the files in the backup: it has no inventory"
    yield from _of_v1(foreign, record)
    yield from _of_collections(foreign, record)


def _of_v1(foreign: Foreign, record: Record) -> Iterator[str]:
    if foreign.maker is not Maker.DOCMIND or record.layout is not Layout.V1:
        return
    there = {entry.path for entry in foreign.entries}
    for source in record.sources:
        if source.kind in SIDECARS and not any(source.stored + suffix in there for suffix in SIDECARS[source.kind]):
            yield f"{source.stored} was copied as a file, without its log: what was written last may be missing"
        if source.part is Part.UPLOADS:
            yield "v1's corpus hash is made of times: where the copy did not keep them, DocMind calls its index stale"


def _of_collections(foreign: Foreign, record: Record) -> Iterator[str]:
    if record.qdrant is None:
        return
    yield "aliases are in no snapshot and its manifest names none: those that are missing are set by hand"
    if not record.qdrant.version:
        yield "nobody wrote down which Qdrant made the snapshots: whether this one takes them is tried beside first"
    match foreign.counts:
        case Counts.NONE:
            yield "nobody wrote down how many points there were: they are counted, and held against nothing"
        case Counts.ESTIMATE:
            yield "the numbers of points are Qdrant's estimate: only when less than half is there it is damage"
        case Counts.EXACT:
            pass


def files_check(foreign: Foreign, record: Record) -> Check:
    """What its files are held against afterwards."""
    files, unknown = record.totals.files, sum(1 for _ in unsummed(foreign, record))
    if not unknown:
        return Check("files", f"{files:,}, each with the sha256 of its manifest")
    return Check("files", f"{files:,}, of which {unknown:,} only with the sha256 that they have now")


def fingerprint(foreign: Foreign) -> str:
    """Of what it says and of what lies there: another one is not the backup that was planned with."""
    digest = hashlib.sha256(repr(foreign.record).encode(errors="surrogateescape"))
    for entry in foreign.entries:
        digest.update(repr(entry).encode(errors="surrogateescape"))
    return digest.hexdigest()


# -- what a restore works with -------------------------------------------------------------------


def unsummed(foreign: Foreign, record: Record) -> Iterator[tuple[str, int]]:
    """(path, size or -1) of each wanted file that has to be measured."""
    for source in record.sources:
        for entry in foreign.below(source.stored):
            if isinstance(entry, FileEntry) and not entry.sha256:
                yield entry.path, entry.size
    for taken in record.qdrant.collections if record.qdrant else ():
        if not taken.sha256 or taken.size < 0:
            yield taken.path, taken.size


def described(foreign: Foreign, record: Record, measured: Measured) -> tuple[Record, tuple[bytes, ...]]:
    """`record` as one of ours, and the lines of its inventory."""
    lines: list[bytes] = []
    sources: list[SourceRecord] = []
    offset = 0
    for source in record.sources:
        own = [fmt.entry_line(entry) for entry in _whole(foreign, source, measured)]
        length = sum(map(len, own))
        sources.append(replace(source, lines=(offset, length)))
        lines += own
        offset += length
    qdrant = record.qdrant
    if qdrant:
        qdrant = replace(qdrant, collections=tuple(_summed(taken, measured) for taken in qdrant.collections))
    return replace(record, id=_id(record), sources=tuple(sources), qdrant=qdrant), tuple(lines)


def _id(record: Record) -> str:
    """As our ids are: its own is a directory's name, which may be anything."""
    return f"{record.started_at:%Y%m%d_%H%M%S}_{hashlib.sha256(record.id.encode(errors='replace')).hexdigest()[:12]}"


def _whole(foreign: Foreign, source: SourceRecord, measured: Measured) -> Iterator[Entry]:
    """Its entries, each below a folder that is there: of a file that is gone the folder may be gone too."""
    made: set[str] = set()
    for entry in foreign.below(source.stored):
        if _unusable(entry, source):
            continue
        if source.kind is Kind.TREE:
            for folder in _folders(entry.path, source.stored):
                if folder not in made:
                    made.add(folder)
                    yield DirEntry(folder, int(foreign.record.started_at.timestamp()) * 10**9, 0o755)
        if isinstance(entry, DirEntry):
            made.add(entry.path)
        yield _measured(entry, measured) if isinstance(entry, FileEntry) else entry


def _folders(path: str, root: str) -> Iterator[str]:
    """Those that `path` lies in, from `root` on."""
    parents = [str(parent) for parent in PurePosixPath(path).parents]
    yield from (parent for parent in reversed(parents) if _lies_in(parent, root))


def _measured(entry: FileEntry, measured: Measured) -> FileEntry:
    if entry.sha256:
        return replace(entry, size=max(0, entry.size))
    size, sha256 = measured.get(entry.path, (max(0, entry.size), NOBODYS))
    return replace(entry, size=size, sha256=sha256)


def _summed(taken: CollectionRecord, measured: Measured) -> CollectionRecord:
    """What its manifest says of the snapshot counts; what it does not say is as measured."""
    size, sha256 = measured.get(taken.path, (0, NOBODYS))
    return replace(taken, size=taken.size if taken.size >= 0 else size, sha256=taken.sha256 or sha256)
