"""Ended at any moment, `create` leaves what was there as it was, and the next one needs no help.

The processes and signals are real. Moments are fixed by gates in the stand-in: it says when the run is there,
and the run waits.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
from tests.conftest import Cli
from tests.environments import DocMindV2, snapshot_of_sources
from tests.standin import Stall, StandIn

from docmind_backup import durable, operations
from docmind_backup.compose import compose
from docmind_backup.core.model import Event as RunEvent
from docmind_backup.core.model import Reason, StepStarted, ignore
from docmind_backup.sample import IMAGE_VECTORS, TEXT_SPARSE_VECTORS, TEXT_VECTORS, text_points
from docmind_backup.verify import verify

PATIENCE_S = 60
"""How long a test waits for what should happen at once before it gives up."""
FOREIGN = "nightly-by-somebody-else.snapshot"


# -- processes and gates -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment of one collection is a moment of the run."""
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOADS", "1")


class Gate(Event):
    """Tells when somebody waits at it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)


class Process:
    """`docmind-backup create` as users run it, its output in pipes."""

    def __init__(self, *args: object) -> None:
        command = [sys.executable, "-m", "docmind_backup", "create", *map(str, args)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def await_at(self, gate: Gate) -> None:
        """Until the stand-in holds it there."""
        deadline = time.monotonic() + PATIENCE_S
        while not gate.reached.wait(0.02):
            assert self._process.poll() is None, f"it ended early: {self.end()}"
            assert time.monotonic() < deadline, "nobody came to the gate"

    def await_steps(self, count: int) -> None:
        """Until so many steps are done, each of which is a line on stderr; or all of them."""
        assert self._process.stderr
        for _, line in zip(range(count), self._process.stderr, strict=False):
            assert re.search(r": \w+, \d+ files?, ", line), line

    def wait_a_moment(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said on stderr."""
        _, said = self._process.communicate(timeout=PATIENCE_S)
        return self._process.returncode, said

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def creating(env: DocMindV2, *args: object) -> Iterator[Process]:
    process = Process("-C", env.project, *args)
    try:
        yield process
    finally:
        process.kill()


# -- what was there and has to stay --------------------------------------------------------------


class Before:
    """A catalog with one good backup, the sources and a server with somebody else's snapshot: none may change."""

    def __init__(self, cli: Cli, env: DocMindV2, server: StandIn) -> None:
        assert cli("create", "-C", env.project).code == 0
        server.put_snapshot(env.text_collection, FOREIGN, b"not ours")
        server.put_snapshot(env.image_collection, FOREIGN, b"not ours either")
        self._cli, self._env, self._server = cli, env, server
        self._sources = snapshot_of_sources(env)
        (self._earlier,) = backups_in(env.backups)
        self._bytes = contents(self._earlier)

    def is_as_it_was(self) -> None:
        """Nothing half-made is listed, what is listed verifies, and nothing that was there changed."""
        listed = self._cli("list", "-C", self._env.project, "--json").json()
        assert {item["kind"] for item in listed} <= {"backup", "unfinished"}
        assert self._cli("verify", "-C", self._env.project, "--all", "--quiet").code == 0
        assert contents(self._earlier) == self._bytes
        assert snapshot_of_sources(self._env) == self._sources

    def has_no_new_name(self) -> None:
        assert backups_in(self._env.backups) == [self._earlier]

    def has_nothing_new(self) -> None:
        """No backup, no staging folder, nothing of ours on the server."""
        self.has_no_new_name()
        assert stagings(self._env.backups) == []
        assert self.ours() == []

    def ours(self) -> list[str]:
        """Snapshots on the server that are not somebody else's."""
        names = (self._env.text_collection, self._env.image_collection)
        return [name for collection in names for name in self._server.snapshots(collection) if name != FOREIGN]

    def next_run_needs_no_help(self, *, candidates: int = 0, unanswered: int = 0) -> None:
        """It succeeds, cleans up, and names what only might be ours; what never was answered stays written down."""
        known = {b.name for b in backups_in(self._env.backups)}
        made = self._cli("create", "-C", self._env.project)
        assert made.code == 0, made.err
        assert len({b.name for b in backups_in(self._env.backups)} - known) == 1
        assert stagings(self._env.backups) == []
        left = self.ours()
        assert len(left) == candidates, left
        assert made.err.count("curl -X DELETE") == candidates
        for name in left:
            assert re.search(rf"curl -X DELETE '{re.escape(self._server.url)}/\S+/snapshots/{name}'", made.err)
        assert self._server.snapshots(self._env.text_collection)[FOREIGN] == b"not ours"
        assert self._server.snapshots(self._env.image_collection)[FOREIGN] == b"not ours either"
        assert len(list(self._env.backups.glob(".state/servers/*"))) == unanswered
        self.is_as_it_was()


@pytest.fixture
def before(cli: Cli, env: DocMindV2, server: StandIn) -> Before:
    return Before(cli, env, server)


def backups_in(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*backup_*") if path.is_dir()) if root.is_dir() else []


def last_event(root: Path) -> tuple[str, object]:
    """The newest event and the exit code it tells."""
    event = json.loads((root / "events.jsonl").read_text().splitlines()[-1])
    return event["event"], event.get("exit_code")


def stagings(root: Path) -> list[Path]:
    return sorted(root.glob(".staging-*"))


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder`, hashed; links and folders by what they are."""
    return {str(path.relative_to(folder)): _fingerprint(path) for path in sorted(folder.rglob("*"))}


def _fingerprint(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return f"{path.lstat().st_mode:o}"
    return f"{path.stat().st_mode:o} {path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"


# -- moments of a run ----------------------------------------------------------------------------

Moment = Callable[[StandIn, Gate], None]


def listing_the_snapshots(server: StandIn, gate: Gate) -> None:
    """Nothing is begun on the server, nothing written down."""
    server.faults.before("GET", "/snapshots$", lambda: server.faults.hold(gate))


def asking_for_a_snapshot(server: StandIn, gate: Gate) -> None:
    """The intent is written down; the server has not made the snapshot and never will: it refuses then."""
    server.faults.before("POST", "/snapshots$", lambda: server.faults.hold(gate))
    server.faults.hang_up("POST", "/snapshots$")


def about_to_download(server: StandIn, gate: Gate) -> None:
    """The snapshot is there and its name written down."""
    server.faults.before("GET", "/snapshots/.+", lambda: server.faults.hold(gate))


def in_the_middle_of_a_download(server: StandIn, gate: Gate) -> None:
    server.faults.downloads.append(Stall(70_001, gate))


def at_the_last_byte_of_the_second_download(server: StandIn, gate: Gate) -> None:
    server.faults.downloads += [None, Stall(-1, gate)]


def deleting_our_snapshot(server: StandIn, gate: Gate) -> None:
    server.faults.before("DELETE", "/snapshots/", lambda: server.faults.hold(gate))


MOMENTS: tuple[Moment, ...] = (
    listing_the_snapshots,
    asking_for_a_snapshot,
    about_to_download,
    in_the_middle_of_a_download,
    at_the_last_byte_of_the_second_download,
    deleting_our_snapshot,
)


# -- kill -9 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_killed_while_talking_to_qdrant(
    moment: Moment, before: Before, cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    gate = Gate()
    moment(server, gate)

    with creating(env) as process:
        process.await_at(gate)
        process.kill()
    gate.set()

    assert "unfinished" in cli("list", "-C", env.project).out
    before.is_as_it_was()
    before.next_run_needs_no_help(unanswered=moment is asking_for_a_snapshot)
    assert "unfinished" not in cli("list", "-C", env.project).out


def test_killed_before_the_server_made_the_snapshot_it_makes_all_the_same(
    before: Before, env: DocMindV2, server: StandIn
) -> None:
    asked, made = Gate(), Gate()
    server.faults.create_gate, server.faults.answer_gate = asked, made

    with creating(env) as process:
        process.await_at(asked)
        process.kill()
    asked.set()
    assert made.reached.wait(PATIENCE_S)
    made.set()

    before.is_as_it_was()
    before.next_run_needs_no_help(candidates=1, unanswered=1)


def test_killed_after_the_server_made_the_snapshot_and_before_it_said_so(
    before: Before, env: DocMindV2, server: StandIn
) -> None:
    made = Gate()
    server.faults.answer_gate = made

    with creating(env) as process:
        process.await_at(made)
        process.kill()
    (left,) = before.ours()
    made.set()

    before.next_run_needs_no_help(candidates=1, unanswered=1)
    assert before.ours() == [left]


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_a_random_moment(seed: int, before: Before, cli: Cli, env: DocMindV2) -> None:
    by_chance = random.Random(seed)
    big = env.project / "data" / "uploads" / "big.pdf"
    big.write_bytes(by_chance.randbytes(2**20) * 24)
    os.utime(big, ns=(10**18, 10**18))
    held = snapshot_of_sources(env)

    with creating(env) as process:
        process.await_steps(by_chance.randrange(4))
        process.wait_a_moment(by_chance.uniform(0, 0.2))
        process.kill()

    listed = cli("list", "-C", env.project, "--json").json()
    assert {item["kind"] for item in listed} <= {"backup", "unfinished"}
    assert cli("verify", "-C", env.project, "--all").code == 0
    assert snapshot_of_sources(env) == held
    assert cli("create", "-C", env.project).code == 0
    assert stagings(env.backups) == []


def test_ten_kills_in_a_row_and_the_next_run_cleans_up_unaided(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    by_chance = random.Random(10)
    (env.uploads / "big.pdf").write_bytes(by_chance.randbytes(2**20) * 8)
    held = snapshot_of_sources(env)

    for _ in range(10):
        with creating(env) as process:
            process.await_steps(by_chance.randrange(5))
            process.wait_a_moment(by_chance.uniform(0, 0.1))
            process.kill()

    assert {item["kind"] for item in cli("list", "-C", env.project, "--json").json()} <= {"backup", "unfinished"}
    assert snapshot_of_sources(env) == held
    made = cli("create", "-C", env.project)
    assert made.code == 0, made.err
    assert cli("verify", "-C", env.project, "--all").code == 0
    assert stagings(env.backups) == [*env.backups.glob(".trash/*")] == [*env.backups.rglob(".*.tmp")] == []
    assert {item["kind"] for item in cli("list", "-C", env.project, "--json").json()} == {"backup"}


# -- signals -------------------------------------------------------------------------------------

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, in_the_middle_of_a_download),
        (signal.SIGTERM, about_to_download),
        (signal.SIGHUP, at_the_last_byte_of_the_second_download),
    ],
)
def test_a_signal_ends_a_run_and_leaves_nothing(
    number: signal.Signals, moment: Moment, before: Before, env: DocMindV2, server: StandIn
) -> None:
    gate = Gate()
    moment(server, gate)

    with creating(env) as process:
        process.await_at(gate)
        process.send(number)
        code, said = process.end()

    assert code == SIGNALS[number]
    assert last_event(env.backups) == ("backup_failed", code)
    assert "error: interrupted" in said
    assert "Traceback" not in said
    before.has_nothing_new()
    before.is_as_it_was()
    gate.set()
    before.next_run_needs_no_help()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_two_collections_come_leaves_nothing(
    number: signal.Signals, before: Before, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them comes in a thread that hears no signals."""
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOADS", "2")
    monkeypatch.setenv("DOCMIND_BACKUP_STALL_TIMEOUT", "600")
    gates = [Gate(), Gate()]
    server.faults.downloads += [Stall(1000, gate) for gate in gates]

    with creating(env) as process:
        for gate in gates:
            process.await_at(gate)
        process.send(number)
        code, said = process.end()

    assert code == SIGNALS[number]
    assert "Traceback" not in said
    before.has_nothing_new()
    before.is_as_it_was()
    before.next_run_needs_no_help()


def test_a_signal_while_both_wait_for_another_attempt_is_heard_at_once(
    before: Before, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOADS", "2")
    seen = [Event(), Event()]
    left = iter(seen)
    server.faults.before("GET", "/snapshots/.+", lambda: next(left).set(), times=2)
    server.faults.refuse("GET", "/snapshots/.+", 503, "busy", {"retry-after": "300"}, times=2)

    with creating(env) as process:
        assert all(each.wait(PATIENCE_S) for each in seen)
        process.send(signal.SIGINT)
        code, said = process.end()

    assert code == 130
    assert "Traceback" not in said
    before.has_nothing_new()
    before.next_run_needs_no_help()


def test_a_signal_while_files_are_copied(before: Before, env: DocMindV2, server: StandIn) -> None:
    (env.uploads / "big.pdf").write_bytes(b"%PDF" + bytes(256 * 2**20))
    server.faults.create_gate = Gate()

    with creating(env) as process:
        process.await_steps(2)
        process.send(signal.SIGINT)
        code, said = process.end()

    assert code == 130
    assert "Traceback" not in said
    before.has_nothing_new()


def test_a_signal_while_the_server_makes_the_snapshot(before: Before, env: DocMindV2, server: StandIn) -> None:
    made = Gate()
    server.faults.answer_gate = made

    with creating(env) as process:
        process.await_at(made)
        process.send(signal.SIGTERM)
        code, said = process.end()
    made.set()

    assert code == 143
    assert "Traceback" not in said
    assert stagings(env.backups) == []
    before.next_run_needs_no_help(candidates=1, unanswered=1)


def test_a_second_signal_ends_a_run_at_once(before: Before, env: DocMindV2, server: StandIn) -> None:
    download, cleaning = Gate(), Gate()
    in_the_middle_of_a_download(server, download)
    server.faults.before("GET", "/snapshots$", lambda: server.faults.hold(cleaning), skip=1)

    with creating(env) as process:
        process.await_at(download)
        process.send(signal.SIGINT)
        process.await_at(cleaning)
        process.send(signal.SIGTERM)
        code, said = process.end()
    cleaning.set()

    assert code == 143
    assert "Traceback" not in said
    before.is_as_it_was()
    before.next_run_needs_no_help()


# -- a crash at every event ----------------------------------------------------------------------


class Crash(Exception):
    """Raised in the middle of a run by a test."""


class CrashingAt:
    """An `on_event` that raises at the k-th event."""

    def __init__(self, k: int) -> None:
        self.k, self.seen = k, 0

    def __call__(self, event: RunEvent) -> None:
        self.seen += 1
        if self.seen == self.k:
            raise Crash(repr(event))


def test_a_crash_at_any_event_leaves_the_catalog_as_it_was(before: Before, env: DocMindV2) -> None:
    for extra in (*sorted(env.uploads.iterdir())[1:], *sorted(env.artifacts.iterdir())[1:]):
        extra.unlink()
    with compose(env.project, {}, warn=pytest.fail, accept_shrink=True, ask_qdrant=True) as run:
        k = 0
        while True:
            k += 1
            known, crash = backups_in(env.backups), CrashingAt(k)
            try:
                made = operations.create(run.job, on_event=crash)
            except Crash:
                assert backups_in(env.backups) == known
                assert stagings(env.backups) == []
                assert before.ours() == []
                assert not list(env.backups.glob(".state/servers/*"))
                continue
            break

    assert k > 20, k
    assert made.exit_code == 0
    assert made.backup
    assert backups_in(env.backups) == sorted([*known, made.backup.directory])


# -- a destination that fails --------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 4 MB."""
    place = tmp_path / "small disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of a test's own needs root and the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def test_a_disk_that_runs_full_is_exit_13_and_gets_its_space_back(
    cli: Cli, env: DocMindV2, server: StandIn, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_FREE", "0")
    to_disk = ("-C", env.project, "--dest", small_disk)
    assert cli("create", *to_disk, "--only", "chat").code == 0
    (earlier,) = backups_in(small_disk)
    kept, space = contents(earlier), free(small_disk)

    def grow() -> None:
        (env.uploads / "grown.pdf").write_bytes(os.urandom(5 * 2**20))

    server.faults.before("GET", "/cluster", grow)
    made = cli("create", *to_disk)

    assert made.code == 13
    assert last_event(small_disk) == ("backup_failed", 13)
    assert "full" in made.err
    assert "hint:" in made.err
    assert "Traceback" not in made.err
    assert backups_in(small_disk) == [earlier]
    assert stagings(small_disk) == []
    assert free(small_disk) >= space - 2**14
    assert contents(earlier) == kept


def test_looking_works_on_a_disk_without_a_free_byte(
    cli: Cli, env: DocMindV2, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_FREE", "0")
    to_disk = ("-C", env.project, "--dest", small_disk)
    assert cli("create", *to_disk, "--only", "chat").code == 0
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass
    assert free(small_disk) == 0

    assert len(cli("list", *to_disk, "--json").json()) == 1
    assert cli("show", *("latest", *to_disk)).code == 0
    assert cli("verify", *("latest", *to_disk)).code == 0
    assert cli("restore-plan", *("latest", *to_disk)).code in (0, 3)
    made = cli("create", *to_disk)
    assert made.code == 13
    assert len(backups_in(small_disk)) == 1


def test_a_disk_that_cannot_be_written_is_said_clearly_and_can_be_read(
    cli: Cli, env: DocMindV2, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_FREE", "0")
    to_disk = ("-C", env.project, "--dest", small_disk)
    assert cli("create", *to_disk, "--only", "chat").code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    made = cli("create", *to_disk)

    assert made.code == 1
    assert "error: cannot write to" in made.err
    assert "Read-only file system" in made.err
    assert "hint:" in made.err
    assert cli("list", *to_disk).code == 0
    assert cli("verify", *("latest", *to_disk)).code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; see the read-only disk above")
def test_a_destination_without_permission_is_said_clearly(cli: Cli, env: DocMindV2, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)

    made = cli("create", "-C", env.project, "--dest", locked / "backups")

    assert made.code == 1
    assert "Permission denied" in made.err


@pytest.mark.parametrize("below", ["", "backups"])
def test_a_file_where_the_destination_should_be_is_said_clearly(
    below: str, cli: Cli, env: DocMindV2, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file")

    made = cli("create", "-C", env.project, "--dest", tmp_path / "file" / below)

    assert made.code in (1, 2)
    assert "error:" in made.err
    assert "Traceback" not in made.err
    assert (tmp_path / "file").read_text() == "a file"


def test_what_could_not_be_flushed_is_not_published(
    before: Before, cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: durable.Flusher, _below: Path) -> None:
        raise OSError(errno.EIO, "flushing failed: Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(durable.Flusher, "flush", fail)
        made = cli("create", "-C", env.project)

    assert made.code == 1
    assert last_event(env.backups) == ("backup_failed", 1)
    assert "Input/output error; nothing was published" in made.err
    before.has_nothing_new()
    before.next_run_needs_no_help()


def test_an_error_of_the_flush_is_heard(tmp_path: Path) -> None:
    flusher = durable.Flusher(tmp_path)
    flusher.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        flusher.flush(tmp_path)


def test_where_there_is_no_syncfs_each_file_and_folder_is_flushed_for_itself(
    cli: Cli, offline: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    (offline.uploads / "empty").mkdir()
    (offline.uploads / "elsewhere.pdf").symlink_to("/etc/hostname")
    flush, fsync = durable.Flusher.flush, os.fsync
    flushed: set[Path] = set()
    written: list[Path] = []

    def note(fd: int) -> None:
        fsync(fd)
        flushed.add(Path(os.readlink(f"/proc/self/fd/{fd}")))

    def all_of_it(flusher: durable.Flusher, below: Path) -> None:
        flush(flusher, below)
        written.extend(path for path in (below, *below.rglob("*")) if not path.is_symlink())
        assert set(written) <= flushed

    monkeypatch.setattr(durable.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(durable.Flusher, "flush", all_of_it)

    assert cli("create", "-C", offline.project, "--only", "uploads", "--quiet").code == 0
    assert {"backup.json", "empty", "document-00.pdf"} <= {path.name for path in written}


def test_a_backup_has_its_name_last(before: Before, cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when its record is written, and not when it is flushed: there is no moment at which it is half there."""
    moments: list[str] = []
    write, flush = durable.write_new, durable.Flusher.flush

    def written(path: Path, data: bytes, **more: int) -> None:
        write(path, data, **more)
        if path.name == "backup.json":
            moments.append("written")
            before.has_no_new_name()

    def flushed(flusher: durable.Flusher, below: Path) -> None:
        before.has_no_new_name()
        assert (below / "backup.json").exists()
        flush(flusher, below)
        moments.append("flushed")

    monkeypatch.setattr(durable, "write_new", written)
    monkeypatch.setattr(durable.Flusher, "flush", flushed)

    assert cli("create", "-C", env.project).code == 0
    assert moments == ["written", "flushed"]


def test_a_backup_whose_name_could_not_be_flushed_is_not_published(
    before: Before, cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = durable.fsync_directory

    def fail(directory: Path) -> None:
        if directory == env.backups:
            raise OSError(errno.EIO, "Input/output error")
        really(directory)

    with monkeypatch.context() as broken:
        broken.setattr(durable, "fsync_directory", fail)
        made = cli("create", "-C", env.project)

    assert made.code == 1
    before.has_nothing_new()
    before.next_run_needs_no_help()


# -- sources that move ---------------------------------------------------------------------------

OTHER_DEPLOYMENT = "0" * 32


@pytest.fixture
def older_index(env: DocMindV2, server: StandIn) -> tuple[str, dict[str, str]]:
    """The index snapshot before the active one, and its collections, which are on the server too."""
    (name,) = {path.name for path in env.storage.iterdir() if path.is_dir()} - {env.index_snapshot}
    meta = json.loads((env.storage / name / "manifest.meta.json").read_bytes())
    server.create_collection(
        meta["collections"]["text"],
        text_points(9, seed=3),
        vectors=TEXT_VECTORS,
        sparse_vectors=TEXT_SPARSE_VECTORS,
        metadata=meta["collection_metadata"]["text"],
    )
    server.create_collection(
        meta["collections"]["image"], vectors=IMAGE_VECTORS, metadata=meta["collection_metadata"]["image"]
    )
    return name, meta["collections"]


def test_an_index_activated_during_the_run_makes_it_start_again(
    cli: Cli, env: DocMindV2, server: StandIn, older_index: tuple[str, dict[str, str]]
) -> None:
    name, collections = older_index
    current = env.storage / "CURRENT"
    server.faults.before("POST", "/snapshots$", lambda: current.write_text(f"{name}\n"))

    made = cli("create", "-C", env.project, "--json")

    assert made.code == 0, made.err
    (backup,) = backups_in(env.backups)
    record = json.loads((backup / "backup.json").read_bytes())
    assert made.json()["completeness"] == "complete"
    assert (backup / "data/storage/CURRENT").read_text() == f"{name}\n"
    assert {c["name"] for c in record["qdrant"]["collections"]} == set(collections.values())
    assert [s["name"] for s in record["index_snapshots"] if s["active"]] == [name]
    assert cli("verify", "-C", env.project, "latest").code == 0
    assert stagings(env.backups) == []
    for collection in (*collections.values(), env.text_collection, env.image_collection):
        assert not server.snapshots(collection)


def test_a_deployment_id_that_changes_during_the_run_makes_it_start_again(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    """Whose backup it is, and whose it says it is, are read at different times."""
    identity = env.data_dir / ".deployment-id"
    server.faults.before("POST", "/snapshots$", lambda: identity.write_text(OTHER_DEPLOYMENT))

    made = cli("create", "-C", env.project, "--json")

    assert made.code in (0, 3), made.err
    (backup,) = backups_in(env.backups)
    record = json.loads((backup / "backup.json").read_bytes())
    assert record["scope"]["deployment_id"] == OTHER_DEPLOYMENT
    assert (backup / "data/.deployment-id").read_text() == OTHER_DEPLOYMENT
    assert not [omission for omission in record["omissions"] if omission["reason"] == "moved"]


def test_an_index_activated_in_every_run_is_a_named_lack(
    cli: Cli, env: DocMindV2, server: StandIn, older_index: tuple[str, dict[str, str]]
) -> None:
    name, _ = older_index
    current = env.storage / "CURRENT"

    def activate_the_other() -> None:
        other = name if current.read_text().strip() == env.index_snapshot else env.index_snapshot
        current.write_text(f"{other}\n")

    server.faults.before("POST", "/docmind_docs__.*/snapshots$", activate_the_other, times=None)
    made = cli("create", "-C", env.project, "--json")

    assert made.code == 3
    (omission,) = made.json()["omissions"]
    assert (omission["part"], omission["source"], omission["reason"]) == ("storage", "data/storage/CURRENT", "moved")
    (backup,) = backups_in(env.backups)
    assert backup.name.startswith("incomplete-")
    assert cli("verify", "-C", env.project, "latest").code == 0


def test_uploads_that_change_during_the_run_are_captured_again(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    def user_uploads_and_removes() -> None:
        (env.uploads / "late.pdf").write_bytes(b"%PDF late")
        (env.uploads / "document-00.pdf").unlink()

    server.faults.before("POST", "/snapshots$", user_uploads_and_removes)
    made = cli("create", "-C", env.project, "--json")

    assert made.code == 0, made.err
    (backup,) = backups_in(env.backups)
    assert contents(backup / "data/uploads").keys() == contents(env.uploads).keys()
    assert (backup / "data/uploads/late.pdf").read_bytes() == b"%PDF late"
    assert cli("verify", "-C", env.project, "latest").code == 0


def test_uploads_that_change_whenever_they_are_captured_are_a_named_lack(env: DocMindV2) -> None:
    names = iter(range(100))

    def user_never_rests(event: RunEvent) -> None:
        if isinstance(event, StepStarted) and event.label == "data/uploads":
            (env.uploads / f"more-{next(names)}.pdf").write_bytes(b"%PDF more")

    with compose(env.project, {}, warn=pytest.fail, ask_qdrant=True) as run:
        made = operations.create(run.job, on_event=user_never_rests)

    assert made.exit_code == 3
    assert made.backup
    (omission,) = made.backup.record.omissions
    assert (omission.source, omission.reason) == ("data/uploads", Reason.MOVED)
    assert next(names) == 2
    verified = verify(made.backup.directory, quick=False, on_event=ignore)
    assert verified.exit_code == 0
