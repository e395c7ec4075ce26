"""Check the structure of a collection snapshot without Qdrant's engine, by its headers; unpack one that is sound.

The format is what Qdrant's own writer makes (GNU tar, files with holes as `S` members), as seen in snapshots
of Qdrant 1.18.3. The outer tar ends with two blocks of zeros, those of its segments end without any.
What bit rot does inside a member shows in no header: that is what the recorded sha256 is for.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

BLOCK = 512
MAX_PROBLEMS = 20
MAX_MEMBERS = 100_000
"""In one tar. A genuine one holds a few names for each segment, or for each file of one segment."""
MAX_NAME = 4096
MAX_JSON = 16 * 2**20
HOLES_PER_BYTE, HOLES_ANYWAY = 2**16, 64 * 2**30
"""Qdrant preallocates files of 32 MiB that cost one header of 512 bytes; more holes than that are a bomb."""

_SEGMENT_FILES = frozenset({"segment.json", "version.info"})
_SEGMENT_ROOTS = frozenset({".", "files", "snapshot/files"})
"""Where a segment's files may lie: Qdrant restores all three layouts (ancient, streamed, regular)."""
_SHARD_FILES = ("shard_config.json", "replica_state.json")


def check(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> tuple[str, ...]:
    """What is wrong with the snapshot at `path`, one sentence each (at most 20); empty when it is sound.

    `on_bytes` is told how much further the reading has come: the file's size in all when it is sound.
    Raises OSError when the file cannot be read, which is not damage.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return tuple(islice(_problems(file, size, on_bytes), MAX_PROBLEMS))


def describe(path: Path) -> dict[str, Any]:
    """The JSON documents at the top of the snapshot at `path`, by name, as far as they can be read. Raises OSError."""
    found: dict[str, Any] = {}
    with path.open("rb") as file, suppress(_TornError):
        for member in _members(file, 0, os.fstat(file.fileno()).st_size):
            if "/" not in member.name and member.name.endswith(".json"):
                document, problem = _document(member, file)
                found |= {} if problem else {member.name: document}
    return found


def unpack(path: Path, folder: Path) -> None:
    """Unpack the snapshot at `path` into the new folder `folder`, holes as holes, segments as the tars they are.

    Checked first; nothing but folders (0700) and regular files (0600) below `folder` is ever made, each once.
    Raises ValueError for one that is not sound, before anything is written; OSError.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if problems := tuple(islice(_problems(file, size, lambda _: None), MAX_PROBLEMS)):
            raise ValueError("; ".join(problems[:3]))
        folder.mkdir(mode=0o700)
        try:
            _unpack_all(file, size, folder)
        except _TornError as tear:
            raise ValueError(str(tear)) from tear


def _unpack_all(file: BinaryIO, size: int, folder: Path) -> None:
    names: set[str] = set()
    for member in _members(file, 0, size):
        if problem := _refused(member, names):  # it was changed since it was checked
            raise ValueError(problem)
        _unpack_one(member, file, folder / member.name)


def _unpack_one(member: _Member, file: BinaryIO, target: Path) -> None:
    if member.type == tarfile.DIRTYPE:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, member.logical)
        position = member.start
        for offset, length in _extents(member, file):
            _copy(file, position, fd, offset, length)
            position += length
    finally:
        os.close(fd)


def _extents(member: _Member, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Where its stored bytes belong: (offset, length) each."""
    if member.type != tarfile.GNUTYPE_SPARSE:
        yield 0, member.stored
        return
    block = _read(file, member.header, BLOCK, member.end)
    for entries, _ in _maps(file, block, member.header + BLOCK, member.end):
        yield from _pairs(entries)


def _copy(file: BinaryIO, position: int, fd: int, offset: int, length: int) -> None:
    file.seek(position)
    while length:
        data = file.read(min(length, 2**20))
        if not data:
            raise ValueError("it was cut off while it was read")
        os.pwrite(fd, data, offset)
        offset, length = offset + len(data), length - len(data)


def _problems(file: BinaryIO, size: int, on_bytes: Callable[[int], None]) -> Iterator[str]:
    contents, reached = _Contents(), 0
    try:
        for member in _members(file, 0, size):
            yield from _look_at(member, file, contents)
            on_bytes(member.end - reached)
            reached = member.end
        _check_end(file, reached, size, zeros=2 * BLOCK)
    except _TornError as tear:
        yield str(tear)
        return
    on_bytes(size - reached)
    yield from contents.lacking()
    if contents.logical > HOLES_ANYWAY + HOLES_PER_BYTE * size:
        yield f"it would unpack to {contents.logical:,} bytes, more than Qdrant's holes explain"


# -- what a collection snapshot holds ------------------------------------------------------------


@dataclass(slots=True)
class _Contents:
    """What has been seen so far; nothing in it grows with the size of the data."""

    names: set[str] = field(default_factory=set[str])
    logical: int = 0
    config: Any = None
    shard_keys: Any = None
    remote: set[str] = field(default_factory=set[str])
    """Shards whose points are on another node: they come without segments."""
    segments: dict[tuple[str, str], set[str]] = field(default_factory=dict[tuple[str, str], set[str]])
    """(shard, segment) to those of its necessary files that were found."""

    def lacking(self) -> Iterator[str]:
        for name in ("config.json", "version.info"):
            if name not in self.names:
                yield f"{name} is missing"
        present = {name.split("/")[0] for name in self.names if "/" in name}
        full = self.remote | {shard for shard, _ in self.segments}
        for shard in sorted(self._expected_shards() | {name for name in present if name.isdecimal()}):
            yield from self._lacking_in(shard)
            if shard not in full:
                yield f"shard {_shown(shard)} has no segments"
        for (shard, segment), found in sorted(self.segments.items()):
            for name in sorted(_SEGMENT_FILES - found):
                yield f"{_shown(f'{shard}/segments/{segment}')} lacks its {name}"

    def _lacking_in(self, shard: str) -> Iterator[str]:
        for name in _SHARD_FILES:
            if f"{shard}/{name}" not in self.names:
                yield f"{_shown(shard)}/{name} is missing"

    def _expected_shards(self) -> set[str]:
        """Those that the configuration names: every node's snapshot describes all of them."""
        params = self.config.get("params") if isinstance(self.config, Mapping) else None
        if not isinstance(params, Mapping):
            return set()
        if params.get("sharding_method") == "custom":
            return _keyed_shards(self.shard_keys)
        number = params.get("shard_number")
        return {str(shard) for shard in range(min(number, MAX_MEMBERS) if isinstance(number, int) else 1)}


def _keyed_shards(mapping: Any) -> set[str]:
    """`[{"key": .., "shard_ids": [..]}]`, or `{key: [..]}` as older servers wrote it."""
    if isinstance(mapping, Mapping):
        lists = list(mapping.values())
    else:
        entries = mapping if isinstance(mapping, list) else []
        lists = [entry.get("shard_ids") for entry in entries if isinstance(entry, Mapping)]
    return {str(shard) for shards in lists if isinstance(shards, list) for shard in shards}


def _look_at(member: _Member, file: BinaryIO, contents: _Contents) -> Iterator[str]:
    """One member of the outer tar."""
    contents.logical += member.logical
    if problem := _refused(member, contents.names):
        yield problem
        return
    match PurePosixPath(member.name).parts:
        case _ if member.type == tarfile.DIRTYPE:
            return
        case (shard, "segments", name) if name.endswith(".tar"):
            yield from _look_into((shard, name), member, file, contents)
        case (shard, "segments", segment, *below) if below:
            _note_segment_file((shard, segment), "/".join(below), member, contents)
        case (*_, name) if name.endswith(".json"):
            document, problem = _document(member, file)
            _note_document(member.name, document, contents)
            if problem:
                yield problem


def _refused(member: _Member, names: set[str]) -> str:
    """Why this member must not be in a snapshot; '' for a good one, whose name is then remembered."""
    path = PurePosixPath(member.name)
    if member.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE):
        return f"{_shown(member.name)} is a {_kind(member.type)}"
    if path.is_absolute() or ".." in path.parts:
        return f"{_shown(member.name)} leads out of the snapshot"
    if member.name in names:
        return f"{_shown(member.name)} is there twice"
    if len(names) == MAX_MEMBERS:
        raise _TornError(f"more than {MAX_MEMBERS:,} members")
    names.add(member.name)
    return ""


def _kind(type_: bytes) -> str:
    kinds = {
        tarfile.LNKTYPE: "hard link",
        tarfile.SYMTYPE: "symbolic link",
        tarfile.CHRTYPE: "device",
        tarfile.BLKTYPE: "device",
        tarfile.FIFOTYPE: "FIFO",
    }
    return kinds.get(type_, f"member of type {type_!r}, which Qdrant does not write")


def _look_into(segment: tuple[str, str], member: _Member, file: BinaryIO, contents: _Contents) -> Iterator[str]:
    """A segment's own tar: read where it lies, to its last member."""
    contents.segments.setdefault(segment, set())
    if not member.whole:
        yield f"{_shown(member.name)} has holes, so it is no tar"
        return
    names: set[str] = set()
    reached, end = member.start, member.start + member.stored
    try:
        for inner in _members(file, reached, end):
            reached, contents.logical = inner.end, contents.logical + inner.logical
            _note_segment_file(segment, inner.name, inner, contents)
            if problem := _refused(inner, names) or _broken_description(inner, file):
                yield f"{_shown(member.name)}: {problem}"
        _check_end(file, reached, end, zeros=0)
    except _TornError as tear:
        yield f"{_shown(member.name)}: {tear}"


def _note_segment_file(segment: tuple[str, str], name: str, member: _Member, contents: _Contents) -> None:
    """Empty ones do not count: with an empty version.info the engine opens a segment without points."""
    path = PurePosixPath(name)
    found = contents.segments.setdefault(segment, set())
    if str(path.parent) in _SEGMENT_ROOTS and path.name in _SEGMENT_FILES and member.stored:
        found.add(path.name)


def _broken_description(inner: _Member, file: BinaryIO) -> str:
    return _document(inner, file)[1] if PurePosixPath(inner.name).name == "segment.json" else ""


def _document(member: _Member, file: BinaryIO) -> tuple[Any, str]:
    """(the parsed JSON, '' or why it is none). A hole reads as NUL bytes, and no JSON has those."""
    if not member.whole or member.stored > MAX_JSON:
        return (
            None,
            f"{_shown(member.name)} is not JSON: {member.stored:,} bytes, {member.logical:,} unpacked",
        )
    try:
        return json.loads(_read(file, member.start, member.stored, member.end)), ""
    except (ValueError, RecursionError) as error:
        return None, f"{_shown(member.name)} is not JSON: {error}"


def _note_document(name: str, document: Any, contents: _Contents) -> None:
    match PurePosixPath(name).parts:
        case ("config.json",):
            contents.config = document
        case ("shard_key_mapping.json",):
            contents.shard_keys = document
        case (shard, "replica_state.json") if isinstance(document, Mapping):
            contents.remote |= {shard} if document.get("is_local") is False else set()


def _shown(name: str) -> str:
    """Nothing in a hostile name reaches the terminal as it is."""
    return name if name.isprintable() and len(name) < 200 else ascii(name[:200])


# -- tar -----------------------------------------------------------------------------------------


class _TornError(Exception):
    """The tar cannot be read on from here."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    """Without the leading `./` of Qdrant before 1.12."""
    type: bytes
    start: int
    """Where its stored bytes begin in the file."""
    stored: int
    logical: int
    """Size after unpacking, holes filled."""
    end: int
    """Where the next header begins."""
    header: int
    """Where its own is."""

    @property
    def whole(self) -> bool:
        """It has no holes: its stored bytes are its content."""
        return self.type in tarfile.REGULAR_TYPES and self.stored == self.logical


def _members(file: BinaryIO, position: int, end: int) -> Iterator[_Member]:
    """The members from `position` up to the first block of zeros, or to `end`; _TornError where it breaks."""
    long_name = ""
    while position < end:
        block = _read(file, position, BLOCK, end)
        if not any(block):
            return
        header, start = _header(block, position), position + BLOCK
        if header.type == tarfile.GNUTYPE_LONGNAME:
            long_name = _long_name(file, start, header.size, end)
            position = start + _padded(header.size)
            continue
        member = _member(file, block, header, long_name or header.name, start, end)
        yield member
        long_name, position = "", member.end


def _member(file: BinaryIO, block: bytes, header: tarfile.TarInfo, name: str, start: int, end: int) -> _Member:
    logical, position = header.size, start - BLOCK
    if header.type == tarfile.GNUTYPE_SPARSE:
        start, logical = _holes(file, block, header.size, start, end)
    after = start + _padded(header.size)
    if after > end:
        raise _TornError(f"cut off: {_shown(name)} should go on to byte {after:,}, the tar ends at {end:,}")
    return _Member(str(PurePosixPath(name)), header.type, start, header.size, logical, after, position)


def _header(block: bytes, position: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise _TornError(f"no tar header at byte {position:,}: {error}") from error
    if header.size < 0:
        raise _TornError(f"{_shown(header.name)} claims a negative size")
    return header


def _long_name(file: BinaryIO, start: int, size: int, end: int) -> str:
    if size > MAX_NAME:
        raise _TornError(f"a name of {size:,} bytes at byte {start:,}")
    return _read(file, start, size, end).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _holes(file: BinaryIO, block: bytes, stored: int, start: int, end: int) -> tuple[int, int]:
    """(where the stored bytes begin, size with the holes filled).

    GNU's map: four (offset, length) pairs in the header, 21 in each block that follows it. Checked as
    Qdrant's reader does when it unpacks: in order, and adding up to both sizes.
    """
    logical, reached, total = _number(block[483:495]), 0, 0
    for entries, start in _maps(file, block, start, end):  # noqa: B020 - where the last of them ends
        for offset, length in _pairs(entries):
            if offset < reached:
                raise _TornError(f"the map of holes before byte {start:,} overlaps itself")
            reached, total = offset + length, total + length
    if (total, reached) != (stored, logical):
        raise _TornError(f"the map of holes before byte {start:,} does not fit the file's size")
    return start, logical


def _maps(file: BinaryIO, block: bytes, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """The pieces of a map of holes, each with where what follows it begins."""
    more = block[482]
    yield block[386:482], start
    while more:
        extension = _read(file, start, BLOCK, end)
        more, start = extension[504], start + BLOCK
        yield extension[:504], start


def _pairs(entries: bytes) -> Iterator[tuple[int, int]]:
    """An entry whose length field is empty is unused."""
    for at in range(0, len(entries), 24):
        if any(entries[at + 12 : at + 24]):
            yield _number(entries[at : at + 12]), _number(entries[at + 12 : at + 24])


def _number(field: bytes) -> int:
    """Octal, or binary after a first byte of 0x80, as GNU tar writes what octal cannot hold."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise _TornError(f"{digits!r} is not a number")
    return int(digits or b"0", 8)


def _read(file: BinaryIO, position: int, size: int, end: int) -> bytes:
    file.seek(position)
    data = file.read(min(size, end - position))
    if len(data) < size:
        raise _TornError(f"cut off at byte {position + len(data):,}")
    return data


def _check_end(file: BinaryIO, position: int, end: int, *, zeros: int) -> None:
    """After the last member: `zeros` bytes of zeros at least, and nothing else."""
    if end - position < zeros:
        raise _TornError("cut off: the two blocks of zeros that end a tar are not there")
    while position < end:
        data = _read(file, position, min(2**20, end - position), end)
        if any(data):
            raise _TornError(f"something follows the end of the tar at byte {position:,}")
        position += len(data)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
