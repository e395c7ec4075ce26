"""Write GNU tars with sparse ('S') members, as Qdrant does since 1.12: a preallocated hole costs nothing.

Layout: tar(5) of GNU "old format": four (offset, size) pairs at 386, "more follows" at 482, the real size at
483; further pairs in blocks of 21. The Rust tar crate wants every piece but the last to be a multiple of 512
and the last pair to end at the real size.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)

Piece = tuple[int, bytes]


def sparse_member(name: str, path: Path, *, mtime: int) -> bytes:
    """The tar member for the file at `path`; a plain one when the file has no holes."""
    size = path.stat().st_size
    pieces = read_pieces(path)
    if sum(len(data) for _, data in pieces) == size:
        return member(name, path.read_bytes(), mtime=mtime)
    return _gnu_sparse(name, size, pieces, mtime)


def member(name: str, data: bytes, *, mtime: int = 0) -> bytes:
    """A plain member."""
    return _header(name, tarfile.REGTYPE, len(data), mtime) + _padded(data)


def read_pieces(path: Path) -> list[Piece]:
    """What is not a hole, by the file system's word."""
    with path.open("rb") as file:
        return [(start, os.pread(file.fileno(), end - start, start)) for start, end in _extents(file.fileno())]


def _extents(fd: int) -> Iterable[tuple[int, int]]:
    size, at = os.fstat(fd).st_size, 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield at, end
        at = end


def _gnu_sparse(name: str, size: int, pieces: list[Piece], mtime: int) -> bytes:
    data = b"".join(data for _, data in pieces)
    pairs = [(start, len(piece)) for start, piece in pieces]
    pairs.append((size, 0))
    blob = bytearray(_header(name, tarfile.GNUTYPE_SPARSE, len(data), mtime))
    _patch(blob, pairs, size)
    return bytes(blob) + _further_pairs(pairs[4:]) + _padded(data)


def _patch(blob: bytearray, pairs: list[tuple[int, int]], size: int) -> None:
    """Fill in the sparse part of the last header block (long names put others before it) and its checksum."""
    head = memoryview(blob)[-BLOCK:]
    for at, pair in zip(range(386, 482, 24), pairs, strict=False):
        head[at : at + 24] = _pair(pair)
    head[482] = len(pairs) > 4
    head[483:495] = _octal(size)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)


def _further_pairs(pairs: list[tuple[int, int]]) -> bytes:
    blocks = b""
    for at in range(0, len(pairs), 21):
        entries = b"".join(_pair(pair) for pair in pairs[at : at + 21])
        more = b"\1" if at + 21 < len(pairs) else b"\0"
        blocks += entries.ljust(504, b"\0") + more + bytes(7)
    return blocks


def _pair(pair: tuple[int, int]) -> bytes:
    return _octal(pair[0]) + _octal(pair[1])


def _octal(number: int) -> bytes:
    return b"%011o\0" % number


def _header(name: str, kind: bytes, size: int, mtime: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime, info.mode = kind, size, mtime, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)
