"""What the captures have in common: where things go, files that belong together, and how trouble is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from docmind_backup.copying import Changed, Copied, Copier, SourceError, Version, reading, version_at
from docmind_backup.core.model import Entry, FileEntry, Omission, Source
from docmind_backup.core.sharing import Held, same_sidecars
from docmind_backup.readlock import Patience
from docmind_backup.sharing import Shelf


@dataclass(frozen=True, slots=True)
class Captured:
    """What came of one source, beside the entries it emitted."""

    omissions: tuple[Omission, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences for people."""
    points: Mapping[str, int] = field(default_factory=dict[str, int])
    """Of an embedded storage: collection to the rows in its copy."""


@dataclass(frozen=True, slots=True)
class Staging:
    """Where captured things go, and who is told."""

    root: Path
    emit: Callable[[Entry], None]
    copier: Copier
    patience: Patience
    shelf: Shelf
    """What an earlier backup holds of the source."""
    keep: Callable[[Sequence[Held]], None]
    """Told of files that are shared as they were."""

    def place(self, stored: PurePosixPath) -> Path:
        """The path of `stored` below the root; its parent folders exist (0700)."""
        for parent in reversed(stored.parents[:-1]):
            (self.root / parent).mkdir(mode=0o700, exist_ok=True)
        return self.root / stored

    def clear(self, stored: PurePosixPath) -> None:
        """Take away folders that `place` made and nothing came into: no inventory would know of them."""
        with suppress(OSError):
            for parent in stored.parents[:-1]:
                (self.root / parent).rmdir()

    def add(self, entry: FileEntry) -> None:
        """Emit a file that was copied; shared instead where the earlier backup holds the same bytes."""
        self.emit(self.shelf.exchanged(self.shelf.any(entry.path), entry, None, self.root / entry.path))

    def reuse(self, source: Source, sidecars: Sequence[str], logs: Sequence[str]) -> bool:
        """Share a file, with its database's sidecars, that nobody wrote to since; False when it has to be captured.

        The sidecars are looked at first: when none of the `logs` held anything then, and the file is still as it
        was after that, then the file alone was the whole content at that moment.
        """
        held = self.shelf.any(str(source.stored))
        if held is None or self.shelf.mentions(printable(source.name)):
            return False
        beside_it = {suffix: version_at(beside(source.path, suffix)) for suffix in sidecars}
        if not same_sidecars(held.fields, beside_it, logs=logs):
            return False
        with reading():
            found = source.path.lstat()
        target = self.place(source.stored)
        return self.shelf.is_unchanged(held, found) and self._put(held, target)

    def _put(self, held: Held, target: Path) -> bool:
        """Share an unchanged file as `target`, and tell of it; False when it has to be copied."""
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kept = self.shelf.put(held, folder, target.name)
        finally:
            os.close(folder)
        if kept is None:
            return False
        self.keep([kept])
        return True


def beside(path: Path, suffix: str) -> Path:
    """A database's sidecar: `chat.db` and `-wal` give `chat.db-wal`."""
    return path.with_name(path.name + suffix)


def versions(main: Path, suffixes: Sequence[str]) -> dict[str, Version | None]:
    """Of a database file (suffix ``) and its sidecars."""
    return {suffix: version_at(beside(main, suffix)) for suffix in ("", *suffixes)}


def copy_together(
    copier: Copier, main: Path, target: Path, before: Mapping[str, Version | None], keep: Sequence[str]
) -> dict[str, Copied]:
    """Those of the suffixes in `keep` that exist, beside `target`, as they were at one moment.

    Raises Changed (nothing is left) unless everything in `before` is still so afterwards.
    """
    try:
        copies = {s: copier.once(None, beside(main, s), None, beside(target, s)) for s in keep if before[s]}
        if versions(main, [suffix for suffix in before if suffix]) != before:
            raise Changed
    except SourceError:
        discard(target, keep)
        raise
    return copies


def discard(target: Path, suffixes: Sequence[str]) -> None:
    for suffix in ("", *suffixes):
        beside(target, suffix).unlink(missing_ok=True)


def printable(text: str) -> str:
    """Bytes that are not UTF-8 made visible, for people and JSON."""
    return text.encode("utf-8", "backslashreplace").decode()


def omission(source: Source, miss: SourceError, below: str = "", *, rebuildable: bool = False) -> Omission:
    name = f"{source.name}/{below}" if below else source.name
    return Omission(source.part, printable(name), miss.reason, printable(miss.detail), rebuildable)
