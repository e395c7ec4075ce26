"""Whatever lies in an earlier backup, the next one is whole, and no source is harmed by it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import backups, flip, overwrite, record, reseal, write_record
from tests.test_sharing import Environment, home, remember_lines, same_file

from docmind_backup import crew as crews
from docmind_backup import operations, rounds
from docmind_backup.compose import compose
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Event, StepFinished
from docmind_backup.crew import Crew, Teller, side_by_side
from docmind_backup.looking import Look

__all__ = ["home"]

Line = dict[str, Any]


def set_to(**values: Any) -> Callable[[Line], bytes]:
    return lambda fields: fmt.json_line({**fields, **values})


def without(name: str) -> Callable[[Line], bytes]:
    return lambda fields: fmt.json_line({key: value for key, value in fields.items() if key != name})


FORGED: dict[str, Callable[[Line], bytes]] = {
    "no JSON": lambda _: b"x" * 200 + b"\n",
    "a bad escape": lambda fields: fmt.json_line(fields).replace(b'"path":"', b'"path":"\\q'),
    "nested": lambda _: b"[" * 100_000 + b"\n",
    "no type": without("type"),
    "no place": set_to(stored=[]),
    "no device": lambda fields: set_to(origin={k: v for k, v in fields["origin"].items() if k != "dev"})(fields),
    "a time in words": set_to(mtime_ns="x"),
    "no mode": set_to(mode="rw"),
    "a short hash": set_to(sha256="0"),
    "a negative size": set_to(size=-1),
    "another key": set_to(more=1),
}


def _moved(offset: int, length: int, start: int, more: int) -> tuple[int, int]:
    """Where a source's lines are when those from `start` on take so many bytes more."""
    if offset == start:
        return offset, length + more
    return offset + more * (offset > start), length


def forge(backup: Path, change: Callable[[Line], bytes]) -> None:
    """Every line of an upload, in an inventory that the record vouches for."""
    before, length = record(backup), 0
    lines: list[bytes] = []
    for line in (backup / fmt.INVENTORY).read_bytes().splitlines(keepends=True):
        fields = json.loads(line)
        forged = fields["type"] == "file" and fields["path"].startswith("data/uploads/")
        lines.append(change(fields) if forged else line)
        length += len(lines[-1]) - len(line)
    overwrite(backup / fmt.INVENTORY, b"".join(lines))
    start = next(s.lines[0] for s in before.sources if s.stored == "data/uploads")
    moved = [replace(s, lines=_moved(*s.lines, start, length)) for s in before.sources]
    write_record(backup, replace(before, sources=tuple(moved)))
    reseal(backup)


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_forged_line_is_not_taken_over(home: Environment, change: Callable[[Line], bytes]) -> None:
    first = home.create()
    forge(first, change)

    second = home.create()

    assert home.verify(second) == 0
    assert not same_file(home.stored(first, home.upload), home.stored(second, home.upload))


@pytest.mark.parametrize("lines", [(2**62, 10), (3, 10**6), (0, 2**62)])
def test_lines_that_lead_nowhere_share_nothing(home: Environment, lines: tuple[int, int]) -> None:
    first = home.create()
    write_record(first, replace(record(first), sources=tuple(replace(s, lines=lines) for s in record(first).sources)))

    second = home.create()

    assert home.verify(second) == 0


def test_a_link_among_its_folders_is_not_followed(home: Environment) -> None:
    first, live = home.create(), home.env.uploads
    shutil.rmtree(first / "data" / "uploads")
    (first / "data" / "uploads").symlink_to(live)
    forge_stored(first, live)

    second = home.create()

    assert not same_file(home.stored(second, home.upload), home.upload)
    assert home.upload.stat().st_nlink == 1


def test_a_stored_file_that_is_the_source_is_copied(home: Environment) -> None:
    first, live = home.create(), home.env.uploads
    for path in live.rglob("*"):
        if path.is_file():
            stored = first / "data" / "uploads" / path.relative_to(live)
            stored.unlink()
            os.link(path, stored)
    forge_stored(first, live)

    second = home.create()

    assert not same_file(home.stored(second, home.upload), home.upload)
    assert home.verify(second) == 0


def forge_stored(backup: Path, live: Path) -> None:
    """Say of each upload that its stored file is the live one, which did not change since."""
    lines: list[bytes] = []
    for line in (backup / fmt.INVENTORY).read_bytes().splitlines(keepends=True):
        fields = json.loads(line)
        if fields["type"] == "file" and fields["path"].startswith("data/uploads/"):
            found = (live / fields["path"].removeprefix("data/uploads/")).stat()
            fields["stored"] = [found.st_ino, found.st_mtime_ns]
            fields["origin"]["ctime_ns"] = found.st_ctime_ns
        lines.append(fmt.json_line(fields))
    overwrite(backup / fmt.INVENTORY, b"".join(lines))
    remember_lines(backup)


# -- damage --------------------------------------------------------------------------------------


def test_damage_found_while_a_backup_is_made_is_not_passed_on(home: Environment) -> None:
    first = home.create()
    flip(home.stored(first, home.upload), 3)
    home.settle()
    verdicts: list[int] = []

    def tell(event: Event) -> None:
        if isinstance(event, StepFinished) and event.label == "data/uploads" and not verdicts:
            look = Look(run.job.catalog, run.job.clock)
            verdicts.append(rounds.Verifier(look, [first], rounds.Extent()).verify(first).exit_code)

    with compose(home.env.project, {"qdrant": "off"}, warn=lambda _: None) as run:
        made = operations.create(run.job, on_event=tell, prune_after=False).backup

    assert verdicts == [4]
    assert made
    assert not same_file(home.stored(first, home.upload), home.stored(made.directory, home.upload))
    assert home.verify(made.directory) == 0


def test_who_shares_damage_is_named_although_the_record_is_broken_too(home: Environment) -> None:
    first, second = home.create(), home.create()
    flip(home.stored(second, home.upload), 3)
    overwrite(second / fmt.RECORD, b"{")

    found = home.cli("verify", "-C", home.env.project, second, "--json").json()

    assert found[0]["also_damaged"] == [record(first).id]
    third = home.create()
    assert not same_file(home.stored(first, home.upload), home.stored(third, home.upload))


# -- threads that cannot be had ------------------------------------------------------------------


def test_a_thread_that_gets_no_buffer_is_an_error_and_no_wait_for_ever(
    home: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    def refuse(crew: Crew, batch: object) -> None:
        del crew, batch
        no_memory()

    home.upload.write_bytes(bytes(5_000_000))
    monkeypatch.setattr(Crew, "_copier", refuse)

    done = home.cli("create", "-C", home.env.project, "--no-qdrant-snapshot")

    assert done.code == 1
    assert "Cannot allocate memory" in done.err
    assert backups(home.env.backups) == []


def test_without_threads_the_walk_copies_itself(home: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def only_the_walk(thread: threading.Thread) -> None:
        if thread.name == "crew":
            raise RuntimeError("can't start new thread")
        start(thread)

    home.upload.write_bytes(bytes(5_000_000))
    monkeypatch.setattr(threading.Thread, "start", only_the_walk)

    assert home.verify(home.create()) == 0


def test_a_signal_while_a_thread_starts_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Struck(threading.Thread):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt

    ended = threading.Event()
    teller = Teller(lambda _: None)
    monkeypatch.setattr(crews.threading, "Thread", Struck)

    with pytest.raises(KeyboardInterrupt):
        side_by_side(lambda: None, ended.set, teller)

    assert ended.is_set()
    assert isinstance(teller.failure, KeyboardInterrupt)
    assert [thread for thread in threading.enumerate() if thread.name == "files"] == []
