"""Sources that move while a backup is made of them: what is stored is what is recorded, the rest is named."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb
import pytest
from tests.becoming import to_folder, to_link, to_pipe
from tests.catalogs import backups, contents, entries, record
from tests.conftest import Cli, Result

from docmind_backup import operations
from docmind_backup.capture import capture
from docmind_backup.compose import compose
from docmind_backup.core.model import Advanced, Entry, Event, Kind, Part, Reason, Source, StepFinished, StepStarted

SEVERAL = 3 * 1024 * 1024
"""Bytes that are copied in more than one piece."""


@dataclass(frozen=True, slots=True)
class Home:
    """An environment with little in it, its backups elsewhere."""

    cli: Cli
    top: Path

    @property
    def project(self) -> Path:
        return self.top / "project"

    @property
    def data(self) -> Path:
        return self.project / "data"

    @property
    def uploads(self) -> Path:
        return self.data / "uploads"

    @property
    def root(self) -> Path:
        return self.top / "backups"

    @property
    def newest(self) -> Path:
        return max(backups(self.root), key=lambda path: record(path).sequence)

    def run(self, *words: object) -> Result:
        return self.cli(*words, "-C", self.project, "--dest", self.root)

    def create(self, *options: str) -> Result:
        return self.run("create", "--no-qdrant-snapshot", "-q", *options)

    def watched(self, on_event: Callable[[Event], None], *only: Part) -> operations.Created:
        """A create whose events are heard: what they set off happens in the middle of the run."""
        with compose(self.project, {"root": self.root}, warn=lambda _: None, only=only or (Part.UPLOADS,)) as run:
            return operations.create(run.job, on_event=on_event)

    def is_sound(self) -> None:
        """What the newest backup says of itself is what it holds, to the byte and both ways."""
        found = self.run("verify", self.newest.name)
        assert found.code == 0, found.out + found.err

    def stored(self) -> dict[str, bytes]:
        """The uploads in the newest backup."""
        top = self.newest / "data" / "uploads"
        return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}

    def live(self) -> dict[str, bytes]:
        found = sorted(self.uploads.rglob("*"))
        return {str(path.relative_to(self.uploads)): path.read_bytes() for path in found if path.is_file()}

    def restored(self) -> Path:
        to = self.top / "restored"
        done = self.cli("restore", "latest", "--dest", self.root, "--to", to, "--yes", "-q")
        assert done.code == 0, done.err
        return to


@pytest.fixture
def home(cli: Cli, tmp_path: Path) -> Home:
    made = Home(cli, tmp_path)
    made.uploads.mkdir(parents=True)
    for name in ("a.pdf", "m/b.pdf", "m/c.pdf", "z.pdf"):
        (made.uploads / name).parent.mkdir(exist_ok=True)
        (made.uploads / name).write_bytes(name.encode() * (SEVERAL // len(name)) if name == "a.pdf" else name.encode())
    return made


class During:
    """An `on_event` that acts while files are copied: the first time, or `each` time."""

    def __init__(self, act: Callable[[], object], *, each: bool = False, of: type[Event] = Advanced) -> None:
        self.act = act
        self.each = each
        self.of = of
        self.times = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, self.of) and (self.each or not self.times):
            self.times += 1
            self.act()


# -- files -------------------------------------------------------------------------------------------


def rewrite(path: Path, content: Iterator[int]) -> None:
    """In place, as many bytes as before, and the old time put back: only the ctime tells."""
    found = path.stat()
    with path.open("r+b") as file:
        file.write(bytes([next(content) % 256]) * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def numbers() -> Iterator[int]:
    return iter(range(1, 10_000))


@pytest.mark.parametrize("name", ["a.pdf", "z.pdf"])
def test_rewritten_under_its_old_size_and_time_it_is_read_again(home: Home, name: str) -> None:
    content = numbers()
    acting = During(lambda: rewrite(home.uploads / name, content))

    made = home.watched(acting)

    assert (made.exit_code, acting.times) == (0, 1)
    home.is_sound()
    assert home.stored() == home.live()


def test_rewritten_after_it_was_copied_under_its_old_size_and_time_it_is_captured_again(home: Home) -> None:
    """The last moment at which a run can notice: all uploads are copied."""
    acting = During(lambda: rewrite(home.uploads / "m" / "b.pdf", numbers()), of=StepFinished)

    made = home.watched(acting)

    assert (made.exit_code, acting.times) == (0, 1)
    home.is_sound()
    assert home.stored() == home.live()


def test_rewritten_each_time_it_is_left_out_and_named_and_the_next_run_has_it(home: Home) -> None:
    content = numbers()

    made = home.watched(During(lambda: rewrite(home.uploads / "a.pdf", content), each=True))

    assert made.exit_code == 3
    assert made.backup
    named = {omission.source: omission.reason for omission in made.backup.record.omissions}
    assert named["data/uploads/a.pdf"] is Reason.CHANGING
    assert set(named.values()) <= {Reason.CHANGING, Reason.MOVED}
    home.is_sound()
    assert "a.pdf" not in home.stored()
    assert home.create("--only", "uploads").code == 0
    assert home.stored() == home.live()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, 1000)


@pytest.mark.parametrize("name", ["a.pdf", "z.pdf"])
@pytest.mark.parametrize("change", [grow, cut, Path.unlink, to_pipe, to_link, to_folder])
def test_a_file_that_becomes_another_in_the_middle(home: Home, change: Callable[[Path], object], name: str) -> None:
    """Of all moments between the listing and the last byte: the backup has what is there now, whatever that is."""
    made = home.watched(During(lambda: change(home.uploads / name)))

    assert made.exit_code == 0
    home.is_sound()
    assert home.stored() == home.live()
    stored = home.newest / "data" / "uploads" / name
    assert stored.is_symlink() == (change is to_link)
    assert os.path.lexists(stored) == (change not in (Path.unlink, to_pipe))


def test_a_folder_that_vanishes_is_gone_from_the_backup_too(home: Home) -> None:
    for number in range(200):
        (home.uploads / "m" / f"{number}").write_bytes(b"x")

    made = home.watched(During(lambda: shutil.rmtree(home.uploads / "m")))

    assert made.exit_code == 0
    home.is_sound()
    assert home.stored() == home.live()
    assert set(home.stored()) == {"a.pdf", "z.pdf"}


def test_what_appears_during_the_run_is_whole_or_not_there(home: Home) -> None:
    names = numbers()

    def appear() -> None:
        number = next(names)
        for folder in (home.uploads, home.uploads / "m", home.uploads / f"n{number}"):
            folder.mkdir(exist_ok=True)
            (folder / f"{number:05}.pdf").write_bytes(b"new" * 1000)

    made = home.watched(During(appear, each=True))

    assert made.exit_code == 3
    assert made.backup
    assert [omission.reason for omission in made.backup.record.omissions] == [Reason.MOVED]
    home.is_sound()
    live = home.live()
    assert {name: live[name] for name in home.stored()} == home.stored()
    assert home.create("--only", "uploads").code == 0
    assert home.stored() == home.live()


# -- the way to them ---------------------------------------------------------------------------------


def swap_for_link(folder: Path, target: Path) -> None:
    folder.rename(folder.with_name("moved away"))
    folder.symlink_to(target)


@pytest.mark.parametrize("what", ["data", "data/uploads", "data/uploads/m"])
def test_a_folder_on_the_way_that_becomes_a_link_leads_nowhere(home: Home, what: str) -> None:
    """Also one above the source: its path was resolved when the run began, and is not resolved again."""
    elsewhere = home.top / "elsewhere"
    for path in ("uploads/m/b.pdf", "uploads/b.pdf", "m/b.pdf", "b.pdf", "chat.db"):
        (elsewhere / path).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / path).write_bytes(b"secret")
    with closing(sqlite3.connect(home.data / "chat.db")) as db:
        db.execute("CREATE TABLE chat_session(thread_id)")
    acting = During(lambda: swap_for_link(home.project / what, elsewhere), of=StepStarted)

    made = home.watched(acting, Part.UPLOADS, Part.CHAT)

    assert acting.times == 1
    assert made.exit_code == (0 if what == "data/uploads/m" else 14)
    assert made.backup
    home.is_sound()
    stored = [path for path in made.backup.directory.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in stored if b"secret" in path.read_bytes()]


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.TREE, Kind.SQLITE, Kind.DUCKDB])
def test_no_kind_of_source_is_reached_through_a_link(tmp_path: Path, kind: Kind) -> None:
    elsewhere, staging = tmp_path / "elsewhere", tmp_path / "staging"
    if kind is Kind.TREE:
        (elsewhere / "deep" / "it" / "in").mkdir(parents=True)
    else:
        (elsewhere / "deep").mkdir(parents=True)
        with closing(sqlite3.connect(elsewhere / "deep" / "it")) as db:
            db.execute("CREATE TABLE chat_session(thread_id)")
    staging.mkdir()
    (tmp_path / "source").symlink_to(elsewhere)
    stored: list[Entry] = []
    source = Source(Part.CHAT, kind, "it", tmp_path / "source" / "deep" / "it", PurePosixPath("data/it"))

    captured = capture(source, staging, stored.append, lambda _: None)

    assert [omission.reason for omission in captured.omissions] == [Reason.GONE]
    assert (stored, os.listdir(staging)) == ([], [])


# -- SQLite ------------------------------------------------------------------------------------------

BANK = """
import random, sqlite3, sys, threading, time
path, mode = sys.argv[1:]
db = sqlite3.connect(path, isolation_level=None, timeout=5)
db.execute(f"PRAGMA journal_mode={mode}")
db.execute("PRAGMA synchronous=NORMAL")
db.execute("CREATE TABLE account(id INTEGER PRIMARY KEY, balance, paid)")
db.execute("CREATE TABLE payment(giver, taker, amount, note)")
db.execute("BEGIN")
db.executemany("INSERT INTO account VALUES (?, 1000, 0)", [(n,) for n in range(200)])
db.execute("COMMIT")
stop, dice, longest, count = threading.Event(), random.Random(5), 0.0, 0
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
print("ready", flush=True)
while not stop.is_set():
    giver, taker, amount = dice.randrange(200), dice.randrange(200), dice.randrange(50)
    began = time.monotonic()
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE account SET balance = balance - ?, paid = paid + 1 WHERE id = ?", (amount, giver))
    db.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, taker))
    db.execute("INSERT INTO payment VALUES (?, ?, ?, ?)", (giver, taker, amount, "x" * 500))
    db.execute("COMMIT")
    longest, count = max(longest, time.monotonic() - began), count + 1
db.close()
print(count, longest, flush=True)
"""


@contextmanager
def bank(path: Path, mode: str) -> Iterator[list[float]]:
    """A process that moves money all the time, patient for five seconds as DocMind is; then: payments, worst wait."""
    told: list[float] = []
    command = [sys.executable, "-c", BANK, str(path), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield told
            process.stdin.write("\n")
            process.stdin.flush()
            told += map(float, process.stdout.readline().split())
        finally:
            process.stdin.close()
            process.kill() if not told else None
    assert process.returncode == 0, "a writer was kept waiting for more than five seconds"


def assert_books_balance(path: Path) -> int:
    """The payments; not a cent is lost between any two tables."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        total, paid = db.execute("SELECT SUM(balance), SUM(paid) FROM account").fetchone()
        payments = int(db.execute("SELECT COUNT(*) FROM payment").fetchone()[0])
    assert (total, paid) == (200_000, payments)
    return payments


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_database_under_a_heavy_writer_balances_in_the_backup_and_restored(
    home: Home, mode: str, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gets no turn between two payments says so; what is stored is of one moment."""
    monkeypatch.setenv("DOCMIND_BACKUP_BUSY_WAIT", "20")
    with bank(home.data / "chat.db", mode) as told:
        made = [home.create("--only", "chat").code for _ in range(3)]

    payments, longest = told
    record_property(f"longest wait of the writer in seconds, {mode}", longest)
    lacks = [omission.reason for path in backups(home.root) for omission in record(path).omissions]
    assert made.count(0) + len(lacks) == 3
    assert 0 in made
    assert {*lacks} <= {Reason.BUSY, Reason.CHANGING}
    whole = [path for path in backups(home.root) if record(path).complete]
    counts = [assert_books_balance(path / "data" / "chat.db") for path in whole]
    assert 0 < max(counts) <= payments
    restored = home.restored() / "data"
    assert sorted(os.listdir(restored)) == ["chat.db"]
    assert assert_books_balance(restored / "chat.db") in counts


def test_a_journal_that_goes_while_it_is_looked_at_is_no_failure(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(home.data / "chat.db")) as db:
        db.executescript("CREATE TABLE chat_session(thread_id); INSERT INTO chat_session VALUES (1);")
    journal, look, gone = home.data / "chat.db-journal", os.stat, list[object]()
    journal.write_bytes(b"x")

    def and_then_it_is_gone(path: Any, *more: Any, **how: Any) -> os.stat_result:
        found = look(path, *more, **how)
        if not isinstance(path, int) and os.fspath(path) == str(journal):
            journal.unlink()
            gone.append(path)
        return found

    monkeypatch.setattr(os, "stat", and_then_it_is_gone)
    made = home.create("--only", "chat")

    assert (made.code, len(gone)) == (0, 1), made.err


def test_an_emptied_database_is_no_success_once_there_was_one(home: Home) -> None:
    with closing(sqlite3.connect(home.data / "chat.db")) as db:
        db.executescript("CREATE TABLE chat_session(thread_id); INSERT INTO chat_session VALUES (1);")
    assert home.create("--only", "chat").code == 0
    first = home.newest
    (home.data / "chat.db").write_bytes(b"")

    made = home.create("--only", "chat", "--keep-last", "1")

    assert made.code == 14, made.err
    assert first in backups(home.root)
    assert [omission.reason for omission in record(home.newest).omissions] == [Reason.EMPTIED]


# -- DuckDB ------------------------------------------------------------------------------------------

INGEST = """
import duckdb, sys
db = duckdb.connect(sys.argv[1])
db.execute("SET checkpoint_threshold='1GB'")
db.execute("CREATE TABLE IF NOT EXISTS keyvalue(key INTEGER, value VARCHAR)")
print("ready", flush=True)
for line in sys.stdin:
    for n in range(100):
        db.execute("INSERT INTO keyvalue VALUES (?, 'x')", [n])
    print("written", flush=True)
"""


@contextmanager
def ingestion(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the cache open and has written a hundred rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", INGEST, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("\n")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "written\n"]
        try:
            yield process
        finally:
            process.kill()


def test_a_cache_is_a_named_lack_while_it_is_written_and_whole_once_its_writer_died(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_BUSY_WAIT", "0.05")
    cache = home.project / "cache" / "ingestion" / "docmind.duckdb"
    with ingestion(cache) as process:
        before = contents(cache.parent)
        busy = home.create("--only", "cache")
        assert contents(cache.parent) == before
        process.kill()
        process.wait()
    home.is_sound()
    (lack,) = record(home.newest).omissions
    assert (busy.code, lack.reason, lack.rebuildable) == (3, Reason.BUSY, True)
    assert lack.detail.startswith("recoverable, cold cache: ")
    assert entries(home.newest) == {}

    assert home.create("--only", "cache").code == 0

    home.is_sound()
    assert {path.name for path in (home.newest / "cache").iterdir()} == {"docmind.duckdb", "docmind.duckdb.wal"}
    restored = home.restored() / "cache" / "ingestion" / "docmind.duckdb"
    with duckdb.connect(str(restored), read_only=True) as db:
        assert db.execute("SELECT COUNT(*) FROM keyvalue").fetchall() == [(100,)]


# -- sources that are not there ----------------------------------------------------------------------


def test_nothing_is_removed_on_the_strength_of_a_source_that_is_gone(home: Home) -> None:
    assert [home.create("--only", "uploads").code for _ in range(2)] == [0, 0]
    good = {*backups(home.root)}
    newest = home.newest
    shutil.rmtree(home.uploads)

    codes = [home.create("--only", "uploads", "--keep-last", "1").code for _ in range(3)]

    assert codes == [14, 14, 14]
    assert good <= {*backups(home.root)}
    assert home.run("prune", "--keep-last", "1").code == 0
    assert newest in backups(home.root)
