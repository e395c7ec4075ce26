"""SQLite and DuckDB in every state an application leaves them in: the copy is sound, the source untouched."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath

import duckdb
import pytest

from docmind_backup import databases
from docmind_backup.capture import Captured, capture
from docmind_backup.core.model import Entry, FileEntry, Kind, Part, Reason, Source
from docmind_backup.databases import count_rows
from docmind_backup.errors import Interrupted
from docmind_backup.readlock import SQLITE, Patience, ReadLock
from docmind_backup.staging import Staging

STORED = PurePosixPath("data/chat.db")
READY = "ready"

SQLITE_WRITER = """
import sqlite3, sys
path, mode, then = sys.argv[1:]
c = sqlite3.connect(path, isolation_level=None, timeout=30)
c.execute(f"PRAGMA journal_mode={mode}")
c.execute("PRAGMA cache_size=10")
c.execute("CREATE TABLE IF NOT EXISTS a(n, text)")
c.execute("CREATE TABLE IF NOT EXISTS b(n)")
def both(n):
    c.execute("BEGIN IMMEDIATE")
    c.execute("INSERT INTO a VALUES (?, ?)", (n, "x" * 300))
    c.execute("INSERT INTO b VALUES (?)", (n,))
    c.execute("COMMIT")
c.execute("PRAGMA synchronous=OFF")
for n in range(500):
    both(n)
c.execute("PRAGMA synchronous=FULL")
if then == "uncommitted":
    c.execute("BEGIN")
    c.execute("UPDATE a SET text = 'y'")
    c.execute("DELETE FROM b")
if then == "exclusive":
    c.execute("BEGIN EXCLUSIVE")
print("ready", flush=True)
if then == "busy":
    n = 500
    while True:
        both(n)
        n += 1
if then == "opening":
    for n in range(500, 800):
        c.close()
        c = sqlite3.connect(path, isolation_level=None, timeout=30)
        both(n)
    c.close()
sys.stdin.readline()
c.close()
print("closed", flush=True)
sys.stdin.readline()
"""

DUCKDB_WRITER = """
import duckdb, sys
c = duckdb.connect(sys.argv[1])
c.execute("SET checkpoint_threshold='1GB'")
c.execute("CREATE TABLE t(n INTEGER)")
for n in range(0, 500, 50):
    c.execute("INSERT INTO t SELECT * FROM range(50)")
print("ready", flush=True)
sys.stdin.readline()
c.close()
print("closed", flush=True)
sys.stdin.readline()
"""


class Writer:
    """An application in a process of its own."""

    def __init__(self, script: str, *arguments: str | Path) -> None:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.wait_for(READY)

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.go_on()
        self.wait_for("closed")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def writer(script: str, *arguments: str | Path) -> Iterator[Writer]:
    application = Writer(script, *arguments)
    try:
        yield application
    finally:
        application.kill()


class Run:
    def __init__(
        self,
        path: Path,
        staging: Path,
        *,
        kind: Kind = Kind.SQLITE,
        part: Part = Part.CHAT,
        wait_s: float = 5.0,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        staging.mkdir(exist_ok=True)
        self.staging = staging
        self.copy = staging / STORED
        self.entries: list[Entry] = []
        source = Source(part, kind, "data/chat.db", path, STORED)
        self.captured: Captured = capture(source, staging, self.entries.append, on_bytes, busy_wait_s=wait_s)

    def only_entry(self) -> FileEntry:
        (entry,) = self.entries
        assert isinstance(entry, FileEntry)
        return entry

    def reason(self) -> Reason:
        (omission,) = self.captured.omissions
        assert omission.source == "data/chat.db"
        return omission.reason

    def stored(self) -> list[str]:
        return sorted(path.name for path in self.copy.parent.glob("*"))


def seen(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that must not change: everything but the content of `-shm`.

    As root, SQLite gives each sidecar that it opens to the owner of the database (os_unix.c, robustFchown): the
    ctime of `-wal` and `-journal` moves even when that is who owns it already.
    """
    found: dict[str, tuple[object, ...]] = {}
    for path in folder.iterdir():
        s = path.stat()
        found[path.name] = (s.st_ino,)
        if not path.name.endswith("-shm"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            chowned = os.geteuid() == 0 and path.name.endswith(("-wal", "-journal"))
            ctime = 0 if chowned else s.st_ctime_ns
            found[path.name] = (s.st_ino, s.st_mode, s.st_uid, s.st_size, s.st_mtime_ns, ctime, digest)
    return found


def assert_sound(run: Run, *, rows: int | None = 500) -> None:
    """One file, as recorded, that SQLite finds whole, with both tables in step."""
    assert run.captured == Captured()
    entry = run.only_entry()
    assert run.stored() == [STORED.name]
    content = run.copy.read_bytes()
    assert (entry.path, entry.size) == (str(STORED), len(content))
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    found = run.copy.stat()
    assert stat.S_IMODE(found.st_mode) == 0o400
    assert entry.stored is not None
    assert (entry.stored.ino, entry.stored.mtime_ns) == (found.st_ino, found.st_mtime_ns)
    assert entry.mtime_ns == found.st_mtime_ns
    opened = shutil.copy(run.copy, run.staging / "opened.db")
    os.chmod(opened, 0o600)
    with closing(sqlite3.connect(opened)) as c:
        assert c.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        a = c.execute("SELECT COUNT(*), SUM(n), SUM(text LIKE 'x%') FROM a").fetchone()
        b = c.execute("SELECT COUNT(*), SUM(n) FROM b").fetchone()
    assert a == (*b, b[0])
    assert rows is None or a[0] == rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


# -- SQLite: states ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["DELETE", "WAL", "PERSIST", "TRUNCATE"])
def test_a_closed_database(mode: str, folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, mode, "idle") as application:
        application.close()
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert_sound(run)
    assert seen(folder) == before
    entry = run.only_entry()
    assert entry.origin is not None
    assert entry.origin.sidecars["-wal"] is None
    assert set(entry.origin.sidecars) == {"-wal", "-journal"}
    assert (entry.origin.ino, entry.mode) == (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode))


@pytest.mark.parametrize(("mode", "then"), [("DELETE", "idle"), ("WAL", "idle"), ("WAL", "uncommitted")])
def test_a_database_in_use(mode: str, then: str, folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, mode, then):
        before = seen(folder)
        run = Run(path, tmp_path / "staging")
        assert seen(folder) == before

    assert_sound(run)
    wal = run.only_entry().origin
    assert wal is not None
    assert (wal.sidecars["-wal"] is not None) == (mode == "WAL")


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_database_being_written_all_the_time(mode: str, folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, mode, "busy"):
        runs = [Run(path, tmp_path / f"staging{n}", wait_s=20) for n in range(5)]
    for run in runs:
        assert_sound(run, rows=None)


def test_an_application_that_opens_and_closes_all_the_time(folder: Path, tmp_path: Path) -> None:
    """Its WAL appears and vanishes: it must be found as its last closing leaves it, never with a WAL of ours."""
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "WAL", "opening") as application:
        runs = [Run(path, tmp_path / f"staging{n}") for n in range(20)]
        application.close()
        left = sorted(os.listdir(folder))
    sound = [run for run in runs if run.captured == Captured()]
    assert sound
    for run in sound:
        assert_sound(run, rows=None)
    assert {run.reason() for run in runs if run not in sound} <= {Reason.CHANGING}
    assert left in (["chat.db"], ["chat.db", "chat.db-shm", "chat.db-wal"])
    with closing(sqlite3.connect(path)) as c:
        assert c.execute("SELECT COUNT(*) FROM a").fetchone() == (800,)


def test_an_application_that_comes_and_goes_while_a_closed_database_is_copied(folder: Path, tmp_path: Path) -> None:
    """The copy has what it wrote, and no lock of ours made it leave its WAL behind."""
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "WAL", "idle") as application:
        application.close()
    write = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("INSERT INTO a VALUES (500, 'x')")
c.execute("INSERT INTO b VALUES (500)")
c.commit()
c.close()
"""
    left: list[list[str]] = []

    def come_and_go(_count: int) -> None:
        if not left:
            subprocess.run([sys.executable, "-c", write, str(path)], check=True)
            left.append(os.listdir(folder))

    run = Run(path, tmp_path / "staging", on_bytes=come_and_go)

    assert left == [["chat.db"]]
    assert_sound(run, rows=501)


def test_a_database_replaced_before_its_engine_opens_it_is_looked_at_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine opens it by its name: what was copied has to be what was looked at and locked."""
    path, really = folder / "chat.db", databases._online
    with writer(SQLITE_WRITER, path, "DELETE", "idle") as application:
        application.close()
    other = Path(shutil.copy(path, folder / "other.db"))

    def replaced(source: Path, target: Path, staging: Staging) -> None:
        if other.exists():
            other.rename(path)
        really(source, target, staging)

    monkeypatch.setattr(databases, "_online", replaced)

    run = Run(path, tmp_path / "staging")

    assert_sound(run)
    origin = run.only_entry().origin
    assert origin
    assert origin.ino == path.stat().st_ino


def test_a_writer_killed_in_wal_mode(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "WAL", "uncommitted") as application:
        application.kill()
        assert {"chat.db-wal", "chat.db-shm"} <= set(os.listdir(folder))
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert_sound(run)
    assert seen(folder) == before


def test_a_wal_without_its_lock_table(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "WAL", "uncommitted") as application:
        application.kill()
    (folder / "chat.db-shm").unlink()
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert_sound(run)
    assert seen(folder) == before


def test_a_writer_killed_with_a_hot_journal(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "DELETE", "uncommitted") as application:
        application.kill()
    assert (folder / "chat.db-journal").stat().st_size
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert_sound(run)
    assert seen(folder) == before
    origin = run.only_entry().origin
    assert origin is not None
    j = (folder / "chat.db-journal").stat()
    assert origin.sidecars["-journal"] == (j.st_ino, j.st_size, j.st_mtime_ns, j.st_ctime_ns)


def test_an_empty_wal_is_no_wal(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "WAL", "idle") as application:
        application.close()
    (folder / "chat.db-wal").write_bytes(b"")
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert_sound(run)
    assert seen(folder) == before


@pytest.mark.parametrize("shm", [True, False])
def test_a_wal_beside_a_header_that_says_rollback(shm: bool, folder: Path, tmp_path: Path) -> None:
    """The engine reads a WAL that is there, whatever the header says; the copy is what the application sees."""
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "WAL", "idle") as application:
        application.kill()
    with path.open("r+b") as file:
        file.seek(18)
        file.write(b"\1\1")
    if not shm:
        (folder / "chat.db-shm").unlink()
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert_sound(run)
    assert seen(folder) == before


@pytest.mark.parametrize("shm", [0o444, 0])
def test_a_folder_that_may_not_be_written(shm: int) -> None:
    """Where the engine cannot use `-shm` at all, both files are copied and recovered in staging."""
    with tempfile.TemporaryDirectory(prefix="capture-") as name:
        place, folder = Path(name), Path(name, "source")
        place.chmod(0o777)
        folder.mkdir(mode=0o755)
        path = folder / "chat.db"
        with writer(SQLITE_WRITER, path, "WAL", "uncommitted") as application:
            application.kill()
        content = (folder / "chat.db-shm").read_bytes()
        for each in folder.iterdir():
            each.chmod(shm if each.name.endswith("-shm") else 0o444)
        folder.chmod(0o555)
        before = seen(folder)
        try:
            if os.geteuid() == 0:
                os.seteuid(65534)
            run = Run(path, place / "staging")
        finally:
            os.seteuid(os.getuid())
            folder.chmod(0o755)
        assert seen(folder) == before
        (folder / "chat.db-shm").chmod(0o400)
        assert (folder / "chat.db-shm").read_bytes() == content
        assert_sound(run)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("name", [b"what?mode=rw#%41.db", b"\xff\xfe.db", b"a b\n'\"&;.db", b"n" * 240 + b".db"])
def test_names_that_mean_something_in_a_uri(mode: str, name: bytes, folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.db"
    with writer(SQLITE_WRITER, plain, mode, "idle") as application:
        application.kill()
    path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
    for suffix in ("", "-wal", "-shm") if mode == "WAL" else ("",):
        shutil.copy(f"{plain}{suffix}", f"{path}{suffix}")
    before = set(os.listdir(folder))

    run = Run(path, tmp_path / "staging")

    assert_sound(run)
    assert set(os.listdir(folder)) == before


# -- SQLite: trouble -----------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "then"), [("DELETE", "exclusive"), ("DELETE", "uncommitted")])
def test_locked_longer_than_the_patience_is_busy(mode: str, then: str, folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, mode, then):
        before = seen(folder)
        run = Run(path, tmp_path / "staging", wait_s=0.05)
        assert seen(folder) == before

    assert run.reason() is Reason.BUSY
    assert (run.entries, run.stored()) == ([], [])


def test_a_lock_that_goes_in_time_is_waited_for(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "DELETE", "exclusive") as application:
        told: list[int] = []

        def wait(count: int) -> None:
            if not told:
                application.close()
            told.append(count)

        run = Run(path, tmp_path / "staging", wait_s=30, on_bytes=wait)

    assert_sound(run)
    assert told[0] == 0
    assert sum(told) >= path.stat().st_size


def test_closing_another_descriptor_does_not_free_the_lock(folder: Path, tmp_path: Path) -> None:
    """With the lock held, an application that closes leaves its WAL: none can vanish between look and read."""
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "WAL", "idle") as application:
        with ReadLock(path, SQLITE, Patience(0, lambda _: None)):
            path.read_bytes()
            application.close()
            assert (folder / "chat.db-wal").exists()
        before = seen(folder)
        run = Run(path, tmp_path / "staging")
        assert seen(folder) == before
    assert_sound(run)


def page_of_zeros(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(bytes(4096))


def index_that_lacks_rows(path: Path) -> None:
    """What only integrity_check sees, not quick_check."""
    with closing(sqlite3.connect(path, isolation_level=None)) as c:
        c.execute("CREATE INDEX i ON a(n)")
        c.execute("PRAGMA writable_schema=ON")
        c.execute("UPDATE sqlite_master SET sql = NULL, type = 'gone' WHERE name = 'i'")
        schema = c.execute("SELECT rootpage FROM sqlite_master WHERE name = 'i'").fetchone()
        c.execute("DELETE FROM sqlite_master WHERE name = 'i'")
    with closing(sqlite3.connect(path, isolation_level=None)) as c:
        c.execute("DELETE FROM a WHERE n < 10")
        c.execute("PRAGMA writable_schema=ON")
        row = ("index", "i", "a", schema[0], "CREATE INDEX i ON a(n)")
        c.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.write_bytes(os.urandom(40_000)), "file is not a database"),
        (lambda p: os.truncate(p, 50_000), "malformed"),
        (page_of_zeros, "malformed"),
        (index_that_lacks_rows, "SQLite finds wrong # of entries in index i"),
    ],
)
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_damaged_database_is_kept_as_it_is(
    mode: str, damage: Callable[[Path], object], words: str, folder: Path, tmp_path: Path
) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, mode, "idle") as application:
        application.close()
    damage(path)
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert run.reason() is Reason.DAMAGED
    assert words in run.captured.omissions[0].detail
    assert run.copy.read_bytes() == path.read_bytes()
    assert run.only_entry().sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert run.stored() == [STORED.name]
    assert seen(folder) == before


def test_a_damaged_database_keeps_its_sidecars(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "WAL", "uncommitted") as application:
        application.kill()
    path.write_bytes(os.urandom(4096))
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert run.reason() is Reason.DAMAGED
    assert run.stored() == ["chat.db", "chat.db-wal"]
    assert [e.path for e in run.entries] == ["data/chat.db", "data/chat.db-wal"]
    for name in run.stored():
        assert (run.copy.parent / name).read_bytes() == (folder / name).read_bytes()
    assert seen(folder) == before


def test_a_journal_of_several_databases_is_not_played_back(folder: Path, tmp_path: Path) -> None:
    """Playing it back could delete the super-journal that lies beside the source."""
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "DELETE", "uncommitted") as application:
        application.kill()
    super_journal = folder / "chat.db-mj01"
    super_journal.write_bytes(b"gone.db-journal\0")
    name = os.fsencode(super_journal)
    total = sum(name) & 0xFFFFFFFF
    with (folder / "chat.db-journal").open("ab") as file:
        ends = len(name).to_bytes(4, "big") + total.to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7")
        file.write((0x4000_0000 // 4096 + 1).to_bytes(4, "big") + name + ends)
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert seen(folder) == before
    assert run.reason() is Reason.DAMAGED
    assert run.stored() == ["chat.db", "chat.db-journal"]


def test_what_only_the_application_can_check_is_a_note(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with closing(sqlite3.connect(path)) as c:
        c.create_collation("ours", lambda a, b: (a > b) - (a < b))
        c.execute("CREATE TABLE a(n TEXT COLLATE ours PRIMARY KEY)")
        c.execute("INSERT INTO a VALUES ('x'), ('y')")
        c.commit()

    run = Run(path, tmp_path / "staging")

    assert run.captured.omissions == ()
    assert "no such collation sequence: ours" in run.captured.notes[0]
    assert run.only_entry().size == path.stat().st_size


def test_an_empty_file_is_an_empty_database(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    path.write_bytes(b"")
    before = seen(folder)

    run = Run(path, tmp_path / "staging")

    assert run.captured == Captured()
    assert run.only_entry().size == 0
    assert seen(folder) == before


@pytest.mark.parametrize("kind", [Kind.SQLITE, Kind.DUCKDB])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: None, Reason.GONE),
        (lambda p: p.mkdir(), Reason.UNREADABLE),
        (os.mkfifo, Reason.UNREADABLE),
        (lambda p: p.symlink_to("/etc/passwd"), Reason.UNREADABLE),
    ],
)
def test_what_is_no_database_file(
    make: Callable[[Path], object], reason: Reason, kind: Kind, folder: Path, tmp_path: Path
) -> None:
    make(folder / "chat.db")

    run = Run(folder / "chat.db", tmp_path / "staging", kind=kind)

    assert run.reason() is reason
    assert run.stored() == []


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_write_error_is_the_destination_s(mode: str, folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, mode, "idle"):
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))
        try:
            with pytest.raises(OSError, match=r"too large|No space") as caught:
                Run(path, tmp_path / "staging")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
@pytest.mark.parametrize("state", ["idle", "uncommitted"])
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_full_destination_is_enospc(mode: str, state: str, folder: Path, tmp_path: Path) -> None:
    path, small = folder / "chat.db", tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=100k tmpfs {small}") != 0:
        pytest.skip("cannot mount here")
    try:
        with writer(SQLITE_WRITER, path, mode, state) as application:
            if state == "uncommitted":
                application.kill()
            with pytest.raises(OSError, match=r"too large|No space") as caught:
                Run(path, small / "staging")
    finally:
        os.system(f"umount {small}")
    assert caught.value.errno == errno.ENOSPC


def interrupt_after(calls: int) -> Callable[[int], None]:
    left = [calls]

    def interrupt(_count: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted(2)

    return interrupt


def test_an_interruption_gets_out_of_the_copying(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "WAL", "idle"), pytest.raises(Interrupted):
        Run(path, tmp_path / "staging", on_bytes=interrupt_after(0))


def test_an_interruption_gets_out_of_the_checking(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with closing(sqlite3.connect(path)) as c:
        c.execute("CREATE TABLE a(n INTEGER PRIMARY KEY, text CHECK (length(text) < 100))")
        numbers = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300000)"
        c.execute(f"INSERT INTO a {numbers} SELECT n, 'text' || n FROM c")
        c.commit()
    told: list[int] = []
    Run(path, tmp_path / "counted", on_bytes=told.append)
    hashing = -(-path.stat().st_size // (4 * 1024 * 1024))
    assert told.count(0) > hashing

    def interrupt(count: int) -> None:
        if not count:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        Run(path, tmp_path / "staging", on_bytes=interrupt)


def test_an_interruption_gets_out_of_the_waiting(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, "DELETE", "exclusive"), pytest.raises(Interrupted):
        Run(path, tmp_path / "staging", wait_s=60, on_bytes=interrupt_after(2))


# -- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "then", "killed"),
    [
        ("DELETE", "idle", False),
        ("WAL", "idle", False),
        ("WAL", "idle", True),
        ("DELETE", "uncommitted", True),
        ("DELETE", "exclusive", False),
    ],
)
def test_counting_changes_nothing(mode: str, then: str, killed: bool, folder: Path) -> None:
    path = folder / "chat.db"
    with writer(SQLITE_WRITER, path, mode, then) as application:
        if killed:
            application.kill()
        before = seen(folder)
        rows = count_rows(path, "a")
        assert count_rows(path, "nothing") == 0
        assert seen(folder) == before
    assert rows == 500


# -- DuckDB --------------------------------------------------------------------------------------


def rows_of(run: Run) -> int:
    """What DuckDB finds in a copy that was moved elsewhere with its .wal."""
    place = run.staging / "opened"
    place.mkdir()
    for name in run.stored():
        shutil.copy(run.copy.parent / name, place / name)
    with duckdb.connect(str(place / STORED.name), read_only=True) as c:
        row = c.execute("SELECT COUNT(*) FROM t").fetchone()
    assert row is not None
    return int(row[0])


def duck(path: Path, staging: Path, **options: object) -> Run:
    return Run(path, staging, kind=Kind.DUCKDB, **options)  # type: ignore[arg-type]


def test_a_closed_cache(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(DUCKDB_WRITER, path) as application:
        application.close()
    before = seen(folder)

    run = duck(path, tmp_path / "staging")

    assert run.captured == Captured()
    assert run.stored() == [STORED.name]
    entry = run.only_entry()
    assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry.origin is not None
    assert entry.origin.sidecars[".wal"] is None
    assert rows_of(run) == 500
    assert seen(folder) == before


def test_a_killed_writer_s_wal_is_kept_beside_its_file(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(DUCKDB_WRITER, path) as application:
        application.kill()
    before = seen(folder)

    run = duck(path, tmp_path / "staging")

    assert run.captured == Captured()
    assert [e.path for e in run.entries] == ["data/chat.db", "data/chat.db.wal"]
    assert rows_of(run) == 500
    assert seen(folder) == before
    main = run.entries[0]
    wal = (folder / "chat.db.wal").stat()
    assert isinstance(main, FileEntry)
    assert main.origin is not None
    assert main.origin.sidecars[".wal"] == (wal.st_ino, wal.st_size, wal.st_mtime_ns, wal.st_ctime_ns)


@pytest.mark.parametrize(("part", "rebuildable"), [(Part.CACHE, True), (Part.ANALYTICS, False)])
def test_a_file_that_its_application_has_open(part: Part, rebuildable: bool, folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(DUCKDB_WRITER, path):
        before = seen(folder)
        run = duck(path, tmp_path / "staging", part=part, wait_s=0.05)
        assert seen(folder) == before

    assert run.reason() is Reason.BUSY
    assert run.captured.omissions[0].rebuildable is rebuildable
    assert run.captured.omissions[0].detail.startswith("recoverable, cold cache: ") is rebuildable
    assert (run.entries, run.stored()) == ([], [])


def test_an_application_that_closes_in_time_is_waited_for(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(DUCKDB_WRITER, path) as application:
        closed: list[int] = []

        def wait(_count: int) -> None:
            if not closed:
                closed.append(1)
                application.close()

        run = duck(path, tmp_path / "staging", wait_s=30, on_bytes=wait)

    assert run.captured == Captured()
    assert rows_of(run) == 500


def test_no_writer_gets_in_while_it_is_copied(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(DUCKDB_WRITER, path) as application:
        application.close()
    attempt = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('INSERT INTO t VALUES (1)')"
    said: list[str] = []

    def write(_count: int) -> None:
        path.read_bytes()  # another descriptor of this process, closed: that frees ordinary locks
        tried = subprocess.run([sys.executable, "-c", attempt, str(path)], capture_output=True, text=True, check=False)
        said.append(tried.stderr)

    run = duck(path, tmp_path / "staging", on_bytes=write)

    assert said
    assert all("Conflicting lock" in words for words in said)
    assert run.captured == Captured()
    assert rows_of(run) == 500
    assert subprocess.run([sys.executable, "-c", attempt, str(path)], check=False).returncode == 0


def test_a_file_that_ignores_locks_and_changes_is_named(folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    with writer(DUCKDB_WRITER, path) as application:
        application.kill()
    wal = folder / "chat.db.wal"

    run = duck(path, tmp_path / "staging", on_bytes=lambda _: wal.write_bytes(wal.read_bytes()))

    assert run.reason() is Reason.CHANGING
    assert (run.entries, run.stored()) == ([], [])


@pytest.mark.parametrize(("times", "rows"), [(1, 500), (9, None)])
def test_a_main_file_that_changes_while_its_wal_is_copied(
    times: int, rows: int | None, folder: Path, tmp_path: Path
) -> None:
    path = folder / "chat.db"
    with writer(DUCKDB_WRITER, path) as application:
        application.kill()
    told: list[int] = []

    def change(_count: int) -> None:
        told.append(1)
        if (tmp_path / "staging" / "data" / "chat.db.wal").exists() and times * 2 >= len(told):
            os.utime(path)

    run = duck(path, tmp_path / "staging", on_bytes=change)

    if rows is None:
        assert run.reason() is Reason.CHANGING
        assert (run.entries, run.stored()) == ([], [])
    else:
        assert run.captured == Captured()
        assert rows_of(run) == rows


@pytest.mark.parametrize("content", [b"", b"short", os.urandom(20_000)])
def test_what_is_not_a_duckdb_database_is_kept_and_named(content: bytes, folder: Path, tmp_path: Path) -> None:
    path = folder / "chat.db"
    path.write_bytes(content)

    run = duck(path, tmp_path / "staging", part=Part.CACHE)

    assert run.reason() is Reason.DAMAGED
    assert run.copy.read_bytes() == content
    assert run.only_entry().size == len(content)
