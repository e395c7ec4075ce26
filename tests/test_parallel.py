"""Several threads copy, and what comes of it is what one thread would have brought: same order, same omissions."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import stat
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.becoming import to_link, to_pipe
from tests.catalogs import backups
from tests.environments import DocMindV2
from tests.standin import Stall, StandIn

from docmind_backup import collection, operations
from docmind_backup.capture import Captured, capture
from docmind_backup.compose import compose
from docmind_backup.core.model import (
    Advanced,
    DirEntry,
    Entry,
    Event,
    FileEntry,
    Kind,
    LinkEntry,
    Part,
    Reason,
    Source,
    StepFinished,
    StepStarted,
)
from docmind_backup.crew import Crew, Teller, side_by_side
from docmind_backup.errors import BackupError, Interrupted, NoSpace, Stopped
from docmind_backup.ledger import Begun, Ledger

STORED = PurePosixPath("data/uploads")
PATIENCE_S = 60


class Run:
    """One capture of a tree by a crew of so many, or by nobody but the walk (0)."""

    def __init__(
        self, path: Path, staging: Path, *, hands: int = 2, on_bytes: Callable[[int], None] = lambda _: None
    ) -> None:
        staging.mkdir(exist_ok=True)
        self.staging = staging
        self.entries: list[Entry] = []
        self.threads: set[int] = set()
        source = Source(Part.UPLOADS, Kind.TREE, "uploads", path, STORED)

        def told(count: int) -> None:
            self.threads.add(threading.get_ident())
            on_bytes(count)

        if not hands:
            self.captured: Captured = capture(source, staging, self.entries.append, told)
            return
        with Crew(hands) as crew:
            self.captured = capture(source, staging, self.entries.append, told, crew=crew)

    @property
    def plain(self) -> list[Entry]:
        """The entries without what differs from run to run."""
        return [replace(e, stored=None) if isinstance(e, FileEntry) else e for e in self.entries]


def contents(top: Path) -> dict[bytes, object]:
    found: dict[bytes, object] = {}
    for folder, folders, names in os.walk(os.fsencode(top)):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            content: object = None
            if stat.S_ISREG(mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(mode):
                content = os.readlink(path)
            found[os.path.relpath(path, os.fsencode(top))] = (mode, content)
    return found


# -- the same as one thread ----------------------------------------------------------------------

names = st.sampled_from(["a", "a.b", "a-", "b", "c", "é", "zz"])
trees = st.recursive(
    st.binary(max_size=20) | st.sampled_from([b"x" * 70_000, b"y" * 5_000_000]),
    lambda below: st.dictionaries(names, below, max_size=6),
    max_leaves=40,
)


def build(path: Path, tree: object) -> None:
    if isinstance(tree, dict):
        path.mkdir()
        for name, below in tree.items():
            build(path / name, below)
        (path / "link").symlink_to("a")
        os.mkfifo(path / "fifo")
    elif isinstance(tree, bytes):
        path.write_bytes(tree)


@settings(max_examples=40, deadline=None, database=None)
@given(st.dictionaries(names, trees, max_size=6), st.integers(1, 4))
def test_a_crew_brings_what_the_walk_alone_would(tree: dict[str, object], hands: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        build(place / "source", tree)

        alone, crew = (
            Run(place / "source", place / "alone", hands=0),
            Run(place / "source", place / "crew", hands=hands),
        )

        assert crew.plain == alone.plain
        assert crew.captured == alone.captured
        assert contents(crew.staging) == contents(alone.staging)


def test_other_threads_copy(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(200):
        (tmp_path / "source" / f"{number}").write_bytes(bytes(100_000))

    run = Run(tmp_path / "source", tmp_path / "staging")

    assert run.threads
    assert threading.get_ident() not in run.threads


def test_more_files_than_the_walk_may_be_ahead(tmp_path: Path) -> None:
    for number in range(3000):
        path = tmp_path / "source" / f"{number % 7}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)

    run = Run(tmp_path / "source", tmp_path / "staging")

    assert [e.path for e in run.entries] == sorted((e.path for e in run.entries), key=lambda p: p.split("/"))
    assert sum(isinstance(e, FileEntry) for e in run.entries) == 3000


def test_many_folders_need_few_descriptors(tmp_path: Path) -> None:
    for number in range(400):
        path = tmp_path / "source" / f"{number:03}" / "below" / "file"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"content")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 160, limit[1]))
    try:
        run = Run(tmp_path / "source", tmp_path / "staging", hands=4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)

    assert run.captured == Captured()
    assert len(run.entries) == 1 + 3 * 400
    assert len(os.listdir("/proc/self/fd")) == in_use


# -- what moves meanwhile ------------------------------------------------------------------------


class Once:
    """Acts at the first call; with one pair of hands that is in the first file, while the rest waits its turn."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act

    def __call__(self, _count: int) -> None:
        act, self._act = self._act, None
        if act:
            act()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "b").mkdir(parents=True)
    (root / "b" / "two.pdf").write_bytes(b"two" * 400_000)
    (root / "a.txt").write_bytes(b"one")
    (root / "c.txt").write_bytes(b"three")
    (root / "d.txt").write_bytes(b"four")
    return root


def to_folder(path: Path) -> None:
    path.unlink()
    (path / "below").mkdir(parents=True)
    (path / "below" / "new").write_text("new")
    (path / "also").write_text("also new")


@pytest.mark.parametrize(
    ("become", "stored", "note"),
    [
        (to_pipe, [], "uploads/c.txt: not a file"),
        (to_link, [LinkEntry], "uploads/c.txt -> /etc/passwd: link kept"),
        (to_folder, [DirEntry, FileEntry, DirEntry, FileEntry], ""),
        (Path.unlink, [], "uploads/c.txt: gone before"),
    ],
)
def test_a_file_replaced_while_it_waits_for_its_turn_is_what_it_is_now(
    become: Callable[[Path], None], stored: list[type], note: str, tree: Path, tmp_path: Path
) -> None:
    run = Run(tree, tmp_path / "staging", hands=1, on_bytes=Once(lambda: become(tree / "c.txt")))

    assert run.captured.omissions == ()
    assert [type(e) for e in run.entries if "c.txt" in e.path] == stored
    assert [e.path for e in run.entries] == sorted((e.path for e in run.entries), key=lambda p: p.split("/"))
    assert len(run.captured.notes) == bool(note)
    assert all(found.startswith(note) for found in run.captured.notes)
    assert (run.staging / STORED / "d.txt").read_bytes() == b"four"


def test_omissions_come_in_the_order_of_the_walk(tree: Path, tmp_path: Path) -> None:
    for number in range(100):
        (tree / f"e{number:02}").write_bytes(b"0123456789" * 1000)
    changing = [tree / f"e{number:02}" for number in (3, 40, 97)]

    def change(_count: int) -> None:
        for path in changing:
            with path.open("ab") as file:
                file.write(b"x")

    run = Run(tree, tmp_path / "staging", hands=4, on_bytes=change)

    assert [o.source for o in run.captured.omissions] == [f"uploads/{path.name}" for path in changing]
    assert {o.reason for o in run.captured.omissions} == {Reason.CHANGING}
    assert {path.name for path in (run.staging / STORED).iterdir()} == {
        path.name for path in tree.iterdir() if path not in changing
    }


# -- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hands", [1, 2, 4])
def test_what_the_destination_says_gets_out_and_nobody_works_on(tree: Path, tmp_path: Path, hands: int) -> None:
    for number in range(500):
        (tree / f"e{number}").write_bytes(bytes(10))
    before = os.listdir("/proc/self/fd")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            Run(tree, tmp_path / "staging", hands=hands)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert caught.value.errno == errno.EFBIG
    assert threading.active_count() == 1
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("hands", [1, 2, 4])
def test_an_interruption_in_a_thread_gets_out_and_closes_everything(tree: Path, tmp_path: Path, hands: int) -> None:
    def interrupt(_count: int) -> None:
        raise Interrupted(2)

    before = os.listdir("/proc/self/fd")
    with pytest.raises(Interrupted):
        Run(tree, tmp_path / "staging", hands=hands, on_bytes=interrupt)

    assert threading.active_count() == 1
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert not (tmp_path / "staging" / STORED / "a.txt").exists()


def test_after_a_failure_nobody_is_told_anything() -> None:
    told: list[Event] = []

    def tell(event: Event) -> None:
        told.append(event)
        raise RuntimeError(event)

    teller = Teller(tell)
    with pytest.raises(RuntimeError):
        teller(Advanced(1))
    with pytest.raises(Stopped):
        teller(Advanced(2))

    assert told == [Advanced(1)]
    assert isinstance(teller.failure, RuntimeError)


def test_events_are_told_one_at_a_time() -> None:
    inside, most = 0, 0

    def tell(_event: Event) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        os.sched_yield()
        inside -= 1

    teller = Teller(tell)
    threads = [threading.Thread(target=lambda: [teller(Advanced(1)) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 1


@pytest.mark.parametrize("where", ["beside", "here"])
def test_what_fails_in_one_thread_ends_the_other(where: str) -> None:
    teller, failed = Teller(lambda _: None), threading.Event()

    def fail() -> None:
        teller.failed(ValueError(where))
        failed.set()
        raise ValueError(where)

    def go_on() -> None:
        assert failed.wait(PATIENCE_S)
        teller(Advanced(1))

    with pytest.raises((ValueError, Stopped)):
        side_by_side(*((go_on, fail) if where == "beside" else (fail, go_on)), teller)

    assert isinstance(teller.failure, ValueError)
    assert threading.active_count() == 1


# -- files beside collections --------------------------------------------------------------------


def create(env: DocMindV2, on_event: Callable[[Event], None]) -> operations.Created:
    with compose(env.project, {}, warn=lambda _: None, ask_qdrant=True) as run:
        return operations.create(run.job, on_event=on_event)


def test_files_are_copied_while_the_server_makes_its_snapshot(env: DocMindV2, server: StandIn) -> None:
    copied = threading.Event()
    server.faults.create_gate = copied

    def tell(event: Event) -> None:
        if isinstance(event, StepFinished) and event.label == "data/uploads":
            copied.set()

    made = create(env, tell)

    assert made.exit_code == 0
    assert made.backup


def test_the_inventory_is_in_the_order_of_the_plan_whoever_is_done_first(env: DocMindV2, server: StandIn) -> None:
    done: list[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, StepFinished):
            done.append(event.label)

    made = create(env, tell)

    assert made.backup
    lines = (made.backup.directory / "inventory.jsonl").read_text(encoding="utf-8").splitlines()
    parts = [next(p for p in ("qdrant/", "chat.db", "uploads", "artifacts", "") if p in line) for line in lines]
    assert parts.index("uploads") < parts.index("artifacts") < parts.index("qdrant/") < parts.index("chat.db")
    assert len(done) == len(made.plan.steps)


@pytest.mark.parametrize("label", ["data/uploads", "data/chat.db"])
def test_a_failure_among_the_files_ends_what_the_server_is_asked_for(
    label: str, env: DocMindV2, server: StandIn
) -> None:
    failed = threading.Event()
    server.faults.create_gate = failed

    def tell(event: Event) -> None:
        if isinstance(event, StepStarted) and event.label == label:
            failed.set()
            raise RuntimeError(label)

    with pytest.raises(RuntimeError, match=label):
        create(env, tell)

    assert backups(env.backups) == []
    assert [path for path in env.backups.iterdir() if path.name.startswith(".staging")] == []
    assert server.snapshots(env.text_collection) == server.snapshots(env.image_collection) == {}


def test_a_failure_at_every_event_leaves_nothing_behind(env: DocMindV2, server: StandIn) -> None:
    """Events come from several threads: which one is the nth differs, what is left does not."""
    seen = 0

    def count(_event: Event) -> None:
        nonlocal seen
        seen += 1

    create(env, count)
    (first,) = backups(env.backups)
    for moment in range(seen):
        left = moment

        def crash(_event: Event) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise RuntimeError("crash")

        try:
            create(env, crash)
        except RuntimeError:
            assert [path for path in env.backups.iterdir() if path.name.startswith(".staging")] == []
            assert backups(env.backups) == [first]
        assert server.snapshots(env.text_collection) == server.snapshots(env.image_collection) == {}
        assert not {"crew", "files"} & {thread.name for thread in threading.enumerate()}
        if len(backups(env.backups)) > 1:
            break


# -- several collections -------------------------------------------------------------------------


def test_one_collection_is_made_while_another_is_fetched_and_the_order_is_the_plans(
    env: DocMindV2, server: StandIn
) -> None:
    one_is_done = threading.Event()
    server.faults.downloads.append(Stall(1000, one_is_done))
    collections = (env.text_collection, env.image_collection)

    def tell(event: Event) -> None:
        if isinstance(event, StepFinished) and event.label in collections:
            one_is_done.set()

    made = create(env, tell)

    assert made.backup
    assert made.backup.record.qdrant
    assert tuple(one.name for one in made.backup.record.qdrant.collections) == collections


def test_one_snapshot_is_made_at_a_time(env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"more {number}" for number in range(6)]
    for name in names:
        server.create_collection(name, [])
    monkeypatch.setenv("DOCMIND_BACKUP_COLLECTIONS", ",".join(names))
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOADS", "4")
    unanswered: list[int] = []

    def count() -> None:
        creations = [r for r in server.requests if r.method == "POST" and r.path.endswith("/snapshots")]
        unanswered.append(sum(not r.status for r in creations))

    server.faults.before("POST", "/snapshots$", count, times=None)
    threads: set[int] = set()

    def tell(event: Event) -> None:
        if isinstance(event, Advanced) and event.downloaded:
            threads.add(threading.get_ident())

    assert create(env, tell).exit_code == 0
    assert unanswered == [1] * len(names)
    assert len(threads) <= 4


def test_a_snapshot_that_has_to_be_made_again_waits_for_its_turn(
    env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(1_800_000_000)
    server.set_clock(lambda: datetime.fromtimestamp(next(seconds), UTC))
    server.faults.replace_after_create = 1
    again = threading.Event()
    unanswered: list[int] = []

    def count() -> None:
        creations = [r for r in server.requests if r.method == "POST" and r.path.endswith("/snapshots")]
        unanswered.append(sum(not r.status for r in creations))
        if len(creations) == 2:
            again.wait(0.5)  # the third comes meanwhile where it does not wait for its turn
        elif len(creations) == 3:
            again.set()

    server.faults.before("POST", "/snapshots$", count, times=None)

    assert create(env, lambda _: None).exit_code == 0
    assert unanswered == [1, 1, 1]


def test_what_fails_while_its_snapshot_is_made_is_the_last_that_is_begun(
    env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def fail(_self: Ledger, note: Begun) -> None:
        begun.append(note.collection)
        if len(begun) == 2:
            another.set()
        raise OSError(errno.EIO, "Input/output error")

    failed, another = Teller.failed, threading.Event()

    def late(self: Teller, error: BaseException) -> None:
        another.wait(0.3)  # time for another one to begin, if it is its turn already
        failed(self, error)

    monkeypatch.setattr(Ledger, "write", fail)
    monkeypatch.setattr(Teller, "failed", late)

    with pytest.raises(BackupError, match="Input/output error"):
        create(env, lambda _: None)

    assert len(begun) == 1


def test_two_that_do_not_fit_together_are_not_both_fetched(
    env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    collections = (env.text_collection, env.image_collection)
    for name in collections:
        server.create_snapshot(name)
    free = sum(len(data) for name in collections for data in server.snapshots(name).values()) - 20_000
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_FREE", "0")
    monkeypatch.setattr(collection.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    for name in collections:
        server.state.files[name].clear()
    over = threading.Event()
    server.faults.downloads.append(Stall(1000, over))

    def tell(event: Event) -> None:
        if isinstance(event, StepFinished) and event.label in collections:
            over.set()

    with pytest.raises(NoSpace, match="of them for others under way"):
        create(env, tell)

    assert len([r for r in server.requests if r.method == "GET" and r.path.endswith(".snapshot")]) == 1
    assert backups(env.backups) == []
    assert server.snapshots(env.text_collection) == server.snapshots(env.image_collection) == {}


def test_a_failure_ends_the_waiting_for_a_server_that_sends_nothing(
    env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_STALL_TIMEOUT", "3600")
    silent = Reached()
    server.faults.downloads.append(Stall(1000, silent))
    collections = (env.text_collection, env.image_collection)

    def tell(event: Event) -> None:
        if isinstance(event, StepFinished) and event.label in collections:
            assert silent.reached.wait(PATIENCE_S)
            raise RuntimeError(event.label)

    with pytest.raises(RuntimeError):
        create(env, tell)

    assert backups(env.backups) == []
    assert [path for path in env.backups.iterdir() if path.name.startswith(".staging")] == []
    assert server.snapshots(env.text_collection) == server.snapshots(env.image_collection) == {}
    assert not {"files", "collections", "hash", "write"} & {thread.name for thread in threading.enumerate()}


class Reached(threading.Event):
    """A gate that tells when somebody waits at it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)
