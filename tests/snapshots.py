"""Genuine collection snapshots, and what it takes to change one."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

from docmind_backup.snapshot_tar import check

RECORDINGS = Path(__file__).parent / "data" / "recordings"
GENUINE = sorted(
    path.relative_to(RECORDINGS).as_posix().removesuffix(".snapshot.xz")
    for path in RECORDINGS.rglob("*.snapshot.xz")
    if path.name != "shard-stream.snapshot.xz"  # of a shard: not what is checked here
)

END = bytes(1024)


@cache
def recorded(name: str) -> bytes:
    return lzma.decompress((RECORDINGS / f"{name}.snapshot.xz").read_bytes())


Pieces = dict[str, bytes]
"""Member name to its raw blocks: headers, map of holes, content, padding."""


def pieces(snapshot: bytes) -> Pieces:
    with tarfile.open(fileobj=io.BytesIO(snapshot)) as tar:
        members = tar.getmembers()
        starts = [member.offset for member in members] + [tar.offset]
    raw = [snapshot[start:end] for start, end in pairwise(starts)]
    return {member.name: blocks for member, blocks in zip(members, raw, strict=True)}


def joined(parts: Pieces) -> bytes:
    return b"".join(parts.values()) + END


def made(name: str, content: bytes = b"", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def content(blocks: bytes) -> bytes:
    size = tarfile.TarInfo.frombuf(blocks[:512], "utf-8", "strict").size
    return blocks[512 : 512 + size]


def holed(name: str, *, logical: int, entries: list[tuple[int, int]], stored: bytes) -> bytes:
    """A GNU sparse member, whatever its map says."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(stored), tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for at, pair in zip((386, 410, 434, 458), entries, strict=False):
        block[at : at + 24] = b"".join(b"\x80" + number.to_bytes(11, "big") for number in pair)
    block[483:495] = b"\x80" + logical.to_bytes(11, "big")
    return checksummed(bytes(block)) + stored + bytes(-len(stored) % 512)


def checksummed(block: bytes) -> bytes:
    total = sum(block[:148]) + sum(block[156:512]) + 8 * 32
    return block[:148] + b"%06o\0 " % (total & 0o777777) + block[156:]


def checked(folder: Path, data: bytes, on_bytes: Callable[[int], None] = lambda _: None) -> tuple[str, ...]:
    path = folder / "c.snapshot"
    path.write_bytes(data)
    return check(path, on_bytes)


def problems(folder: Path, parts: Pieces) -> str:
    return "\n".join(checked(folder, joined(parts)))
