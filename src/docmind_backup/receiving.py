"""Store what a network sends as a new file: hashed and written in threads of their own while more arrives.

The caller's thread receives, so that a signal finds it waiting for the network. Blocks go round: filled here,
hashed, written, filled again; memory stays the same for any size. Runs of zeros become holes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from docmind_backup.core.server import Downloaded
from docmind_backup.direct import DIRECT_FROM, NEW_FLAGS, aligned_buffer, put, set_direct

BLOCK = 2 * 1024 * 1024
BLOCKS = 4
"""One is filled, one hashed, one written; the others even out what stutters."""
HOLE = 64 * 1024
"""Zeros so long, and so aligned, are left out."""
_ZEROS = bytearray(HOLE)
"""A bytearray compares with a memoryview by memcmp; two memoryviews would, byte by byte, be slow."""


Fill = Callable[[memoryview], int]
"""Puts what comes next at the beginning of the memory it is given and says how much; 0 at the end."""


def receive(fill: Fill, target: Path, on_bytes: Callable[[int], None]) -> Downloaded:
    """All that `fill` gives as the new file `target` (0400), not flushed.

    Raises what `fill` and `on_bytes` raise, and OSError of the destination, whichever comes first; then
    there is no file and no thread left.
    """
    try:
        with _new_file(target) as file, _Line(file) as line:
            while count := line.take(fill):
                on_bytes(count)
            return line.finish()
    except FileExistsError:
        raise
    except BaseException:  # here, not where it is opened: a Ctrl-C may come between opening it and using it
        target.unlink(missing_ok=True)
        raise


@contextmanager
def _new_file(target: Path) -> Iterator[int]:
    """Not there before."""
    file = os.open(target, NEW_FLAGS, 0o400)
    try:
        yield file
    finally:
        os.close(file)


@dataclass(slots=True)
class _Block:
    buffer: memoryview
    used: int = 0

    @property
    def filled(self) -> memoryview:
        return self.buffer[: self.used]


_Queue = SimpleQueue[_Block | None]
"""None: nothing more comes."""


class _Line:
    """The threads of one file and the blocks between them. What fails first stops all of them."""

    def __init__(self, file: int) -> None:
        self._file = _File(file)
        self._digest = hashlib.sha256()
        self._size = 0
        self._failure: BaseException | None = None
        self._stopped = False
        self._free: _Queue = SimpleQueue()
        self._full: _Queue = SimpleQueue()
        self._hashed: _Queue = SimpleQueue()
        self._block = _Block(aligned_buffer(BLOCK))
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> _Line:
        for _ in range(BLOCKS - 1):
            self._free.put(_Block(aligned_buffer(BLOCK)))
        try:
            self._start("hash", self._full, self._hash, self._hashed)
            self._start("write", self._hashed, self._write, self._free)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """A disk that failed while the network did not send any more is what ended it."""
        failure = self._failure
        self._stop()
        if failure and failure is not error and isinstance(error, Exception):
            raise failure

    def _start(self, name: str, *line: object) -> None:
        thread = threading.Thread(target=self._work, name=name, args=line, daemon=True)
        self._threads.append(thread)  # first: a signal while it starts has to find it
        thread.start()

    def _stop(self) -> None:
        self._stopped = True
        self._full.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    # -- in the caller's thread

    def take(self, fill: Fill) -> int:
        """Waits for a free block where hashing or the disk does not keep up."""
        self._raise_failure()
        block = self._block
        count = fill(block.buffer[block.used :])
        block.used += count
        if block.used == BLOCK:
            self._pass_on()
        return count

    def finish(self) -> Downloaded:
        """When all is hashed and written."""
        self._full.put(self._block)
        self._full.put(None)
        for thread in self._threads:
            thread.join()
        self._raise_failure()
        self._file.end(self._size)
        return Downloaded(self._size, self._digest.hexdigest())

    def _pass_on(self) -> None:
        self._full.put(self._block)
        block = self._free.get()
        self._raise_failure()
        assert block is not None
        block.used = 0
        self._block = block

    def _raise_failure(self) -> None:
        if self._failure:
            raise self._failure

    # -- in theirs

    def _work(self, before: _Queue, act: Callable[[memoryview], None], after: _Queue) -> None:
        """After a failure blocks only pass by, so that nobody waits for one."""
        while (block := before.get()) is not None:
            if not (self._stopped or self._failure):
                try:
                    act(block.filled)
                except BaseException as error:
                    self._failure = self._failure or error
            after.put(block)
        after.put(None)

    def _hash(self, filled: memoryview) -> None:
        self._digest.update(filled)
        self._size += len(filled)

    def _write(self, filled: memoryview) -> None:
        self._file.append(filled)


class _File:
    """Written from its beginning to its end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = 0
        self._direct = False

    def append(self, filled: memoryview) -> None:
        """A block; only the last one is shorter than the others."""
        if not self._size and len(filled) >= DIRECT_FROM:
            self._direct = set_direct(self._descriptor, on=True)
        for start, end in _data(filled):
            put(self._descriptor, filled[start:end], self._size + start, direct=self._direct)
        self._size += len(filled)

    def end(self, size: int) -> None:
        """It may end in a hole."""
        os.ftruncate(self._descriptor, size)


def _data(filled: memoryview) -> Iterator[tuple[int, int]]:
    """The ranges that are worth writing, in order."""
    begun = 0
    for start in range(0, len(filled), HOLE):
        if _ZEROS == filled[start : start + HOLE]:  # noqa: SIM300 - the left one compares
            if begun < start:
                yield begun, start
            begun = start + HOLE
    if begun < len(filled):
        yield begun, len(filled)
