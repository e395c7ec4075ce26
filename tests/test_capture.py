"""Files and trees: what is stored is what was there, whatever moves meanwhile, and nothing outside is reached."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.becoming import to_folder, to_link, to_pipe

from docmind_backup.capture import Captured, capture
from docmind_backup.copying import GRAIN_NS, Copier
from docmind_backup.core.model import DirEntry, Entry, FileEntry, Kind, LinkEntry, Part, Reason, Source
from docmind_backup.errors import Interrupted

STORED = PurePosixPath("data/uploads")


class Run:
    """One capture into an own staging folder, and what came of it."""

    def __init__(
        self,
        path: Path,
        staging: Path,
        *,
        kind: Kind = Kind.TREE,
        skip: tuple[str, ...] = (),
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        staging.mkdir(exist_ok=True)
        self.staging = staging
        self.entries: list[Entry] = []
        source = Source(Part.UPLOADS, kind, "uploads", path, STORED, skip)
        self.captured: Captured = capture(source, staging, self.entries.append, on_bytes)

    def entry(self, name: str) -> Entry:
        return next(e for e in self.entries if e.path == str(STORED / name))

    def file(self, name: str) -> Path:
        return self.staging / STORED / name

    def reasons(self) -> dict[str, Reason]:
        return {o.source: o.reason for o in self.captured.omissions}


def seen(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that must not change in a source."""
    found: dict[str, tuple[object, ...]] = {}
    for at, folders, names in os.walk(folder):
        for name in (".", *folders, *names):
            path = os.path.join(at, name)
            s = os.lstat(path)
            content = Path(path).read_bytes() if stat.S_ISREG(s.st_mode) else b""
            found[path] = (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, content)
    return found


def assert_stored_is_recorded(run: Run) -> None:
    """Entries and staging agree, byte by byte, both ways."""
    base = os.fsencode(run.staging)
    for entry in run.entries:
        path = os.path.join(base, os.fsencode(entry.path))
        found = os.lstat(path)
        match entry:
            case FileEntry():
                content = Path(os.fsdecode(path)).read_bytes()
                assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
                assert stat.S_IMODE(found.st_mode) == 0o400
                assert entry.stored is not None
                assert (entry.stored.ino, entry.stored.mtime_ns) == (found.st_ino, found.st_mtime_ns)
                assert entry.mtime_ns == found.st_mtime_ns
            case LinkEntry():
                assert os.readlink(path) == os.fsencode(entry.target)
            case DirEntry():
                assert stat.S_ISDIR(found.st_mode)
                assert stat.S_IMODE(found.st_mode) == 0o700
    on_disk = {
        os.path.relpath(os.path.join(at, name), base)
        for at, folders, names in os.walk(os.path.join(base, os.fsencode(str(STORED))))
        for name in (b".", *names, *(f for f in folders if os.path.islink(os.path.join(at, f))))
    }
    assert on_disk == {os.fsencode(e.path) for e in run.entries}
    assert [e.path for e in run.entries] == sorted((e.path for e in run.entries), key=lambda p: p.split("/"))


@contextmanager
def without_privileges() -> Iterator[None]:
    """As an ordinary user: root is refused nothing."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that everybody reaches, unlike tmp_path of root."""
    with tempfile.TemporaryDirectory(prefix="capture-") as name:
        place = Path(name)
        place.chmod(0o777)
        yield place


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "b" / "empty").mkdir(parents=True)
    (root / "b" / "two.pdf").write_bytes(b"two" * 400_000)
    (root / "a.txt").write_bytes(b"one")
    (root / "c.txt").write_bytes(b"")
    return root


def test_a_tree_is_stored_as_it_is(tree: Path, tmp_path: Path) -> None:
    (tree / "a.txt").chmod(0o4755)
    os.utime(tree / "a.txt", ns=(1, -86_400_000_000_001))
    os.utime(tree / "c.txt", ns=(1, 9_214_646_400_000_000_007))
    (tree / "b").chmod(0o750)
    os.utime(tree / "b", ns=(5, 5))
    before = seen(tree)

    run = Run(tree, tmp_path / "staging")

    assert run.captured == Captured()
    assert_stored_is_recorded(run)
    names = ["", "/a.txt", "/b", "/b/empty", "/b/two.pdf", "/c.txt"]
    assert [e.path for e in run.entries] == [f"data/uploads{name}" for name in names]
    found = (tree / "a.txt").stat()
    one = run.entry("a.txt")
    assert isinstance(one, FileEntry)
    assert one.origin is not None
    assert (one.origin.dev, one.origin.ino, one.origin.size) == (found.st_dev, found.st_ino, 3)
    assert (one.origin.mtime_ns, one.origin.ctime_ns) == (found.st_mtime_ns, found.st_ctime_ns)
    assert (one.mode, one.mtime_ns, one.uid, one.gid) == (0o4755, -86_400_000_000_001, os.getuid(), os.getgid())
    b = run.entry("b")
    assert isinstance(b, DirEntry)
    assert (b.mode, b.mtime_ns) == (0o750, 5)
    assert seen(tree) == before


def test_bytes_are_told_while_they_are_copied(tree: Path, tmp_path: Path) -> None:
    (tree / "big").write_bytes(bytes(range(256)) * 70_000)
    told: list[int] = []

    run = Run(tree, tmp_path / "staging", on_bytes=told.append)

    assert sum(told) == sum(e.size for e in run.entries if isinstance(e, FileEntry))
    assert max(told) <= 4 * 1024 * 1024
    assert_stored_is_recorded(run)


def test_folders_are_private_whatever_the_umask(tree: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run = Run(tree, tmp_path / "staging")
    finally:
        os.umask(before)

    assert_stored_is_recorded(run)
    assert stat.S_IMODE((tmp_path / "staging" / "data").stat().st_mode) == 0o700


names = st.binary(min_size=1, max_size=40).filter(lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b".."))


@settings(max_examples=60, deadline=None, database=None)
@given(st.dictionaries(names | st.just(b"n" * 255), st.binary(max_size=20), max_size=6), names, names)
def test_any_name_comes_through(files: dict[bytes, bytes], folder: bytes, target: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        source = os.path.join(os.fsencode(place), b"source", folder)
        os.makedirs(source)
        for name, content in files.items():
            with open(os.path.join(source, name), "wb") as file:
                file.write(content)
        if target not in files:
            os.symlink(target, os.path.join(source, target))

        run = Run(Path(place, "source"), Path(place, "staging"))

        assert_stored_is_recorded(run)
        above = os.path.join(b"data/uploads", folder)
        stored = {os.fsencode(e.path): e for e in run.entries if not isinstance(e, DirEntry)}
        assert set(stored) == {os.path.join(above, name) for name in {*files, target}}
        for note in run.captured.notes:
            note.encode()


def test_a_very_deep_tree_needs_few_descriptors(tmp_path: Path) -> None:
    depth = 600
    source = tmp_path / "source"
    fd = os.open(tmp_path, os.O_RDONLY)
    for name in ("source", *["d" * 20] * depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        os.close(os.open("z-after", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 160, limit[1]))
    try:
        run = Run(source, tmp_path / "staging")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)

    assert run.captured == Captured()
    assert len(run.entries) == 2 * (depth + 1)
    assert max(len(e.path) for e in run.entries) > 4096 * 3
    assert len(os.listdir("/proc/self/fd")) == in_use


def test_links_are_kept_and_those_that_lead_out_are_named(tree: Path, tmp_path: Path) -> None:
    links = {
        "inside": "b/two.pdf",
        "b/up": "../a.txt",
        "dangling": "nothing",
        "loop": "loop",
        "absolute": "/etc/passwd",
        "out": "../elsewhere",
        "b/out": "../../elsewhere",
        "folder": "/etc",
    }
    for name, target in links.items():
        (tree / name).symlink_to(target)

    run = Run(tree, tmp_path / "staging")

    assert run.captured.omissions == ()
    assert_stored_is_recorded(run)
    assert {e.path: e.target for e in run.entries if isinstance(e, LinkEntry)} == {
        f"data/uploads/{name}": target for name, target in links.items()
    }
    assert set(run.captured.notes) == {
        f"uploads/{name} -> {links[name]}: link kept, its target is not saved"
        for name in ("absolute", "out", "b/out", "folder")
    }


def test_what_is_no_file_is_never_opened(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tree / "fifo")
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")

        run = Run(tree, tmp_path / "staging")

    assert run.captured.omissions == ()
    assert_stored_is_recorded(run)
    assert [note.split(":")[0] for note in run.captured.notes] == ["uploads/fifo", "uploads/socket"]


def test_skipped_names_count_only_at_the_top(tree: Path, tmp_path: Path) -> None:
    (tree / "_tmp-1").mkdir()
    (tree / ".lock").write_text("")
    (tree / "b" / ".lock").write_text("kept")

    run = Run(tree, tmp_path / "staging", skip=(".lock*", "_tmp-*"))

    assert run.captured == Captured()
    paths = {e.path for e in run.entries}
    assert "data/uploads/b/.lock" in paths
    assert not {"data/uploads/.lock", "data/uploads/_tmp-1"} & paths


def test_holes_stay_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    size = 96 * 1024 * 1024
    with open(source / "sparse", "wb") as file:
        file.seek(10 * 1024 * 1024)
        file.write(b"in the middle")
        file.truncate(size)
    with open(source / "nothing", "wb") as file:
        file.truncate(size)
    if (source / "sparse").stat().st_blocks * 512 >= size:
        pytest.skip("this file system has no holes")
    told: list[int] = []

    run = Run(source, tmp_path / "staging", on_bytes=told.append)

    assert_stored_is_recorded(run)
    assert sum(told) == 2 * size
    for name in ("sparse", "nothing"):
        assert run.file(name).stat().st_size == size
        assert run.file(name).stat().st_blocks * 512 < 1024 * 1024


# -- sources that move ---------------------------------------------------------------------------


class Once:
    """An `on_bytes` that does something the first time (of a file's bytes)."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act: Callable[[], object] | None = act

    def __call__(self, _count: int) -> None:
        act, self.act = self.act, None
        if act:
            act()


@pytest.mark.parametrize(
    ("become", "stored", "note"),
    [
        (to_pipe, [], "uploads/c.txt: not a file"),
        (to_link, [LinkEntry], "uploads/c.txt -> /etc/passwd: link kept"),
        (to_folder, [DirEntry, FileEntry], ""),
        (Path.unlink, [], "uploads/c.txt: gone before"),
    ],
)
def test_a_file_replaced_after_it_was_listed_is_what_it_is_now(
    become: Callable[[Path], None], stored: list[type], note: str, tree: Path, tmp_path: Path
) -> None:
    run = Run(tree, tmp_path / "staging", on_bytes=Once(lambda: become(tree / "c.txt")))

    assert run.captured.omissions == ()
    assert_stored_is_recorded(run)
    assert [type(e) for e in run.entries if "c.txt" in e.path] == stored
    assert len(run.captured.notes) == bool(note)
    assert all(found.startswith(note) for found in run.captured.notes)


def test_a_folder_swapped_for_a_link_leads_nowhere(tree: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "two.pdf").write_text("secret")

    def swap() -> None:
        (tree / "b").rename(tmp_path / "moved")
        (tree / "b").symlink_to(secret)

    run = Run(tree, tmp_path / "staging", on_bytes=Once(swap))

    assert_stored_is_recorded(run)
    assert isinstance(run.entry("b"), LinkEntry)
    assert not [e for e in run.entries if isinstance(e, FileEntry) and e.path.endswith("two.pdf")]


def test_a_folder_swapped_while_the_walk_is_in_it_leads_nowhere(tmp_path: Path) -> None:
    tree, secret = tmp_path / "source", tmp_path / "secret"
    (tree / "b").mkdir(parents=True)
    secret.mkdir()
    for name in ("1", "2"):
        (tree / "b" / name).write_text("ours")
        (secret / name).write_text("secret")

    def swap() -> None:
        (tree / "b").rename(tmp_path / "moved")
        (tree / "b").symlink_to(secret)

    run = Run(tree, tmp_path / "staging", on_bytes=Once(swap))

    assert_stored_is_recorded(run)
    assert [run.file(f"b/{name}").read_text() for name in ("1", "2")] == ["ours", "ours"]


def rewritten(path: Path) -> None:
    """The same size, and the modification time put back."""
    found = path.stat()
    path.write_bytes(b"x" * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def exchanged(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(b"new content")
    new.rename(path)


CHANGES = [rewritten, appended, truncated]


@pytest.fixture
def leased(tmp_path: Path) -> Iterator[Path]:
    """A file that the kernel lets nobody open for writing."""
    path = tmp_path / "file"
    path.write_bytes(b"read me")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            pytest.skip(f"no leases on this file system: {error.strerror}")
        yield path
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def test_a_source_is_opened_for_reading_only(leased: Path, tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError):
        os.close(os.open(leased, os.O_RDWR | os.O_NONBLOCK))

    run = Run(leased, tmp_path / "staging", kind=Kind.FILE)

    assert run.captured == Captured()
    assert (run.staging / STORED).read_bytes() == b"read me"


@pytest.mark.parametrize("change", [*CHANGES, exchanged])
def test_a_file_that_changes_once_is_read_again(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 900_000)

    run = Run(path, tmp_path / "staging", kind=Kind.FILE, on_bytes=Once(lambda: change(path)))

    assert run.captured == Captured()
    assert (run.staging / STORED).read_bytes() == path.read_bytes()
    (entry,) = run.entries
    assert isinstance(entry, FileEntry)
    assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_changed_this_very_moment_is_looked_at_once_the_clock_went_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one step of a file system's clock a second change has the time of the first."""
    path = tmp_path / "file"
    path.write_bytes(b"first.")
    now, waits = path.stat().st_ctime_ns + 1, list[float]()

    def go_on(seconds: float) -> None:
        waits.append(seconds)
        path.write_bytes(b"second")

    monkeypatch.setattr(time, "time_ns", lambda: now)
    monkeypatch.setattr(time, "sleep", go_on)

    run = Run(path, tmp_path / "staging", kind=Kind.FILE)

    assert waits == [(GRAIN_NS - 1) / 1e9]
    assert run.captured == Captured()
    assert (run.staging / STORED).read_bytes() == b"second"


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_each_time_is_left_out_and_named(change: Callable[[Path], None], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    path = source / "file"
    path.write_bytes(b"0123456789" * 900_000)
    (source / "other").write_bytes(b"")

    run = Run(source, tmp_path / "staging", on_bytes=lambda _: change(path))

    assert run.reasons() == {"uploads/file": Reason.CHANGING}
    assert_stored_is_recorded(run)
    assert {e.path for e in run.entries} == {"data/uploads", "data/uploads/other"}


def test_a_file_that_grows_for_ever_is_given_up(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    path = source / "log"
    path.write_bytes(bytes(16 * 1024 * 1024))
    enough, growing = threading.Event(), threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not enough.is_set():
                file.write(b"line\n")
                growing.set()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        growing.wait()
        run = Run(source, tmp_path / "staging")
    finally:
        enough.set()
        thread.join()

    assert run.reasons() == {"uploads/log": Reason.CHANGING}


def test_a_folder_that_goes_far_away_is_named(tmp_path: Path) -> None:
    """More levels than are held open, so that the way back has to be found again."""
    tree = tmp_path / "source"
    deep = tree.joinpath("move-me", *["d"] * 70)
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (tree / "move-me" / "z-later").write_text("x")

    moved = Once(lambda: (tree / "move-me").rename(tmp_path / "moved"))
    run = Run(tree, tmp_path / "staging", on_bytes=moved)

    assert run.reasons() == {"uploads/move-me": Reason.CHANGING}
    assert_stored_is_recorded(run)


# -- refusals ------------------------------------------------------------------------------------


def test_what_may_not_be_read_is_named_and_the_rest_is_captured(open_place: Path) -> None:
    tree = open_place / "source"
    (tree / "closed").mkdir(parents=True)
    (tree / "secret").write_text("x")
    (tree / "open").write_text("y")
    (tree / "secret").chmod(0)
    (tree / "closed").chmod(0)
    with without_privileges():
        run = Run(tree, open_place / "staging")

    assert run.reasons() == {"uploads/secret": Reason.UNREADABLE, "uploads/closed": Reason.UNREADABLE}
    assert {e.path for e in run.entries} == {"data/uploads", "data/uploads/open"}
    (tree / "closed").chmod(0o700)


def test_a_read_error_is_the_source_s() -> None:
    with tempfile.TemporaryDirectory() as place:
        run = Run(Path(f"/proc/{os.getpid()}/mem"), Path(place, "staging"), kind=Kind.FILE)

        assert run.reasons() == {"uploads": Reason.UNREADABLE}
        assert run.captured.omissions[0].detail == os.strerror(errno.EIO)
        assert not (run.staging / STORED).exists()


def test_a_write_error_is_raised_untouched(tree: Path, tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"too large|No space") as caught:
            Run(tree, tmp_path / "staging")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
@pytest.mark.parametrize("size", ["256k", "1g,nr_inodes=4"])
def test_a_full_destination_is_raised_untouched(size: str, tree: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size={size} tmpfs {small}") != 0:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(OSError, match=r"too large|No space") as caught:
            Run(tree, small / "staging")
    finally:
        os.system(f"umount {small}")
    assert caught.value.errno == errno.ENOSPC


def test_an_interruption_gets_out_and_closes_everything(tree: Path, tmp_path: Path) -> None:
    def interrupt(_count: int) -> None:
        raise Interrupted(2)

    before = os.listdir("/proc/self/fd")
    with pytest.raises(Interrupted):
        Run(tree, tmp_path / "staging", on_bytes=interrupt)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert not (tmp_path / "staging" / STORED / "a.txt").exists()


@pytest.mark.parametrize(
    ("kind", "make", "reason"),
    [
        (Kind.TREE, lambda p: None, Reason.GONE),
        (Kind.TREE, lambda p: p.write_text("x"), Reason.GONE),
        (Kind.TREE, lambda p: p.symlink_to("/etc"), Reason.GONE),
        (Kind.FILE, lambda p: None, Reason.GONE),
        (Kind.FILE, lambda p: p.mkdir(), Reason.UNREADABLE),
        (Kind.FILE, os.mkfifo, Reason.UNREADABLE),
        (Kind.FILE, lambda p: p.symlink_to("/etc/passwd"), Reason.UNREADABLE),
    ],
)
def test_a_root_that_is_not_what_it_was_is_an_omission(
    kind: Kind, make: Callable[[Path], object], reason: Reason, tmp_path: Path
) -> None:
    make(tmp_path / "source")

    run = Run(tmp_path / "source", tmp_path / "staging", kind=kind)

    assert run.reasons() == {"uploads": reason}
    assert run.entries == []
    assert not (run.staging / STORED).exists()


def test_names_in_omissions_and_notes_can_be_printed(tmp_path: Path) -> None:
    source = os.fsencode(tmp_path / "source")
    os.mkdir(source)
    os.mkfifo(os.path.join(source, b"\xff-fifo"))

    run = Run(tmp_path / "source", tmp_path / "staging")

    assert run.captured.notes[0].startswith("uploads/\\udcff-fifo: ")


def test_files_can_be_copied_from_several_threads(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 500_000)

    def copy(number: int) -> str:
        copier = Copier(lambda _: None)
        return copier.copy(None, tmp_path / f"{number}", None, tmp_path / f"{number}.copy").sha256

    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(copy, range(40)))

    assert hashes == [hashlib.sha256(bytes([n]) * 500_000).hexdigest() for n in range(40)]
