"""Names and kinds of files that tools stumble over: each there and back through create, verify and restore."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import stat
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from tests.catalogs import backups, entries, flip, only_backup
from tests.conftest import Cli, Result

from docmind_backup import bringing
from docmind_backup.capture import capture
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Kind, Part, Source

Look = dict[bytes, tuple[Any, ...]]
ROOT = os.geteuid() == 0
MIB = 1024 * 1024
LARGE = 64 * MIB


def look(top: Path) -> Look:
    """Everything below `top`, by its path: kind, mode, time to the nanosecond, content. However long the path."""
    found: Look = {}
    for here, folders, files, fd in os.fwalk(os.fsencode(top)):
        for name in (*folders, *files):
            found[os.path.relpath(os.path.join(here, name), os.fsencode(top))] = _what(name, fd)
    return found


def _what(name: bytes, folder: int) -> tuple[Any, ...]:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    seen = (stat.filemode(status.st_mode), status.st_mtime_ns)
    if stat.S_ISLNK(status.st_mode):
        return (*seen, os.readlink(name, dir_fd=folder))
    if stat.S_ISREG(status.st_mode):
        fd = os.open(name, os.O_RDONLY, dir_fd=folder)
        with os.fdopen(fd, "rb") as file:
            return (*seen, status.st_size, hashlib.file_digest(file, "sha256").hexdigest())
    return seen


@dataclass(frozen=True, slots=True)
class Home:
    """An environment of uploads alone."""

    cli: Cli
    top: Path

    @property
    def uploads(self) -> Path:
        return self.top / "project" / "data" / "uploads"

    @property
    def root(self) -> Path:
        return self.top / "backups"

    def create(self, *options: str) -> Result:
        where = ("-C", self.top / "project", "--dest", self.root)
        return self.cli("create", *where, "--only", "uploads", *options)

    def there_and_back(self) -> Path:
        """Backed up, proved, and restored beside: the restored uploads."""
        made = self.create("-q")
        assert made.code == 0, made.err
        verified = self.cli("verify", "--dest", self.root, "latest")
        assert verified.code == 0, verified.err
        assert "\x1b" not in made.out + made.err + verified.out + verified.err
        return self.restored()

    def restored(self) -> Path:
        to = self.top / "restored"
        done = self.cli("restore", "latest", "--dest", self.root, "--to", to, "--yes", "-q")
        assert done.code == 0, done.err
        return to / "data" / "uploads"


@pytest.fixture
def home(cli: Cli, tmp_path: Path) -> Home:
    made = Home(cli, tmp_path)
    made.uploads.mkdir(parents=True)
    return made


def put(folder: Path, name: bytes, content: bytes | None = None) -> None:
    with open(os.path.join(os.fsencode(folder), name), "wb") as file:
        file.write(name if content is None else content)


def deep(top: Path, names: list[str]) -> None:
    """Folders in each other, a file in each, a link in the last: by descriptors, as no path is long enough."""
    fd = os.open(top, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        with os.fdopen(os.open("file", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=fd), "wb") as file:
            file.write(name.encode())
    os.symlink("file", "link", dir_fd=fd)
    os.close(fd)


# -- names ---------------------------------------------------------------------------------------------

NAMES = [
    *(b"a\nb", b"\n", b"a\tb", b"\r", b'"quoted"', b"it's", b"back\\slash", b"\\", b"\x1b[31mred\x1b[0m", b"\x07\x7f"),
    *("\u202egnp.exe".encode(), "\U0001f600".encode(), "\u0085".encode(), b"\xff\xfe", b"\xc3", b"-rf", b" ", b"*"),
    *(b"$(touch x)", b"`x`", b"~", b"#", b"%41", b"[bold]x[dim]", b"...", b"..x", b"CON", b"n" * 255, b"\xe9" * 255),
]
TWINS = ["é".encode(), b"e\xcc\x81", b"A", b"a", "ß".encode(), b"SS", b"ss"]
"""Composed and decomposed, and as some file systems fold them: one name there, several here."""


def test_names_of_every_kind_come_back(home: Home) -> None:
    for name in (*NAMES, *TWINS):
        put(home.uploads, name)
    os.mkfifo(home.uploads / "\x1b[32mfifo\n")
    (home.uploads / "li\x1bnk").symlink_to("/etc/\x1b[33mpasswd\n")
    before = {path: what for path, what in look(home.uploads).items() if not what[0].startswith("p")}

    assert look(home.there_and_back()) == before

    backup = only_backup(home.root)
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=backup, check=False).returncode == 0
    for line in (backup / fmt.INVENTORY).read_bytes().splitlines():
        path = fmt.read_path(json.loads(line))
        assert os.path.lexists(os.fsencode(backup) + b"/" + os.fsencode(path))
    notes = home.cli("show", "latest", "--dest", home.root, "--json").json()["notes"]
    assert {note.partition(":")[0] for note in notes} == {
        "data/uploads/\x1b[32mfifo\n",
        "data/uploads/li\x1bnk -> /etc/\x1b[33mpasswd\n",
    }


def test_names_do_not_reach_the_terminal_as_they_are(home: Home) -> None:
    put(home.uploads, b"\x1b]0;title\x07\n.pdf", b"content")
    os.mkfifo(home.uploads / "\x1b[2Jfifo")
    made = home.create()
    flip(only_backup(home.root) / "data/uploads/\x1b]0;title\x07\n.pdf", at=3)

    found = home.cli("verify", "--dest", home.root, "latest")
    options = ("--dest", home.root, "--to", home.top / "to", "--yes", "--skip-damaged")
    told = home.cli("restore", "latest", *options)

    assert (made.code, found.code, told.code) == (0, 4, 3)
    assert "\\x1b[2Jfifo" in made.err
    for said in (made, found, told):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said.out + said.err)
    assert "\\x1b]0;title\\x07\\n.pdf" in found.out + found.err
    assert "\\x1b]0;title\\x07\\n.pdf" in told.err
    for line in (home.root / "events.jsonl").read_text("utf-8").splitlines():
        json.loads(line)


@pytest.mark.parametrize("names", [["d" * 250] * 30, ["é" * 60] * 40, ["e"] * 300], ids=["long", "umlauts", "deep"])
def test_paths_beyond_all_bounds_come_back(home: Home, names: list[str]) -> None:
    """Longer than the kernel takes at once (PATH_MAX), and 300 folders in each other."""
    deep(home.uploads, names)
    before = look(home.uploads)
    assert len(before) == 2 * len(names) + 1

    assert look(home.there_and_back()) == before

    again = home.create("--json").json()
    assert (again["completeness"], again["files"]) == ("complete", len(names))
    planned = home.create("--dry-run", "--json").json()["steps"]
    assert [step["files"] for step in planned] == [len(names)]


def test_damage_at_the_end_of_a_long_path_is_found(home: Home) -> None:
    deep(home.uploads, ["d" * 250] * 20)
    assert home.create("-q").code == 0
    for _, _, files, fd in os.fwalk(only_backup(home.root) / "data"):
        if "link" in files:
            os.chmod("file", 0o600, dir_fd=fd)
            with os.fdopen(os.open("file", os.O_WRONLY, dir_fd=fd), "wb") as file:
                file.write(b"x")

    found = home.cli("verify", "--dest", home.root, "latest", "--json")

    assert found.code == 4
    (finding,) = found.json()[0]["findings"]
    assert finding["path"].count("/") == 22


def test_a_restore_in_place_of_long_paths_is_taken_back_and_forgotten(home: Home) -> None:
    deep(home.uploads, ["d" * 250] * 20)
    before = look(home.uploads)
    assert home.create("-q").code == 0
    where = ("-C", home.top / "project", "--dest", home.root)

    for way in (("latest", "--yes"), ("--rollback",), ("--discard-rollback", "--yes")):
        done = home.cli("restore", *way, *where)
        assert done.code == 0, done.err
        assert look(home.uploads) == before

    assert not (home.uploads.parent / ".docmind-restore").exists()


def test_single_things_are_taken_out_from_below_a_long_path(home: Home) -> None:
    deep(home.uploads, ["d" * 250] * 20)
    assert home.create("-q").code == 0

    taken = home.cli("restore", "latest", "uploads", "--dest", home.root, "--to", home.top / "taken")

    assert taken.code == 0, taken.err
    assert look(home.top / "taken" / "uploads") == look(home.uploads)


def test_what_is_deeper_than_python_calls_itself_is_removed_and_no_link_in_it_followed(home: Home) -> None:
    """What a prune cannot delete would be in the way of every later run."""
    (home.top / "precious").mkdir()
    (home.top / "precious" / "file").write_text("mine")
    victim = home.root / ".trash" / "backup_20260101_000000"
    victim.mkdir(parents=True)
    deep(victim, ["e"] * 1100)
    for place in (victim, victim.joinpath(*["e"] * 249), victim.joinpath(*["e"] * 250)):
        (place / "out").symlink_to(home.top / "precious")

    try:
        made = home.create("-q")
        assert made.code == 0, made.err
        assert os.listdir(home.root / ".trash") == []
    finally:
        subprocess.run(["rm", "-rf", home.root], check=True)  # pytest itself could not remove it

    assert (home.top / "precious" / "file").read_text() == "mine"


def test_twins_that_the_destination_cannot_keep_apart_end_the_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination that folds names, imitated: no such file system can be mounted everywhere."""
    really = os.open
    made: set[tuple[int, str]] = set()

    def folding(name: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_EXCL and dir_fd is not None:
            key = (os.fstat(dir_fd).st_ino, str(name).lower())
            if key in made:
                raise FileExistsError(17, os.strerror(17), name)
            made.add(key)
        return really(name, flags, mode, dir_fd=dir_fd)

    put(home.uploads, b"Report.pdf")
    put(home.uploads, b"report.PDF")
    monkeypatch.setattr(os, "open", folding)

    refused = home.create()

    assert refused.code == 1
    assert "File exists" in refused.err
    assert backups(home.root) == []


# -- kinds ---------------------------------------------------------------------------------------------


def test_links_come_back_as_links_and_nothing_behind_them_does(home: Home) -> None:
    (home.top / "secret").mkdir()
    (home.top / "secret" / "file").write_text("secret")
    links = {"out": "../../../secret", "absolute": str(home.top / "secret"), "dangling": "nowhere", "loop": "loop"}
    for name, target in {**links, "file": "/etc/passwd", "self": ".", "up": ".."}.items():
        (home.uploads / name).symlink_to(target)
    before = look(home.uploads)

    restored = home.there_and_back()

    assert look(restored) == before
    assert not [path for path in only_backup(home.root).rglob("*") if path.name == "file" and not path.is_symlink()]
    notes = "\n".join(fmt.read_record((only_backup(home.root) / fmt.RECORD).read_bytes()).notes)
    assert notes.count("its target is not saved") == 4


def test_a_source_that_is_a_link_itself_is_resolved_once(home: Home) -> None:
    elsewhere = home.top / "elsewhere"
    home.uploads.rename(elsewhere)
    home.uploads.symlink_to(elsewhere)
    put(elsewhere, b"a.pdf")
    (elsewhere / "in").symlink_to("/etc")

    assert look(home.there_and_back()) == look(elsewhere)


def test_two_names_of_one_file_come_back_as_two_files(home: Home) -> None:
    """Documented: hard links between source files are not kept."""
    put(home.uploads, b"a.pdf", b"content")
    os.link(home.uploads / "a.pdf", home.uploads / "b.pdf")
    before = look(home.uploads)

    restored = home.there_and_back()

    assert look(restored) == before
    (restored / "a.pdf").write_bytes(b"changed")
    assert (restored / "b.pdf").read_bytes() == b"content"


def test_holes_are_stored_and_restored_as_holes(home: Home) -> None:
    with open(home.uploads / "sparse", "wb") as file:
        file.seek(30 * MIB)
        file.write(b"in the middle")
        file.truncate(LARGE)
    if (home.uploads / "sparse").stat().st_blocks * 512 > MIB:
        pytest.skip("this file system has no holes")

    restored = home.there_and_back()

    for place in (only_backup(home.root) / "data" / "uploads", restored):
        found = (place / "sparse").stat()
        assert found.st_size == LARGE
        assert found.st_blocks * 512 < MIB
    assert look(restored) == look(home.uploads)


@contextmanager
def others(folder: Path) -> Iterator[dict[str, str]]:
    """What is no file, no folder and no link: name to the letter of its kind."""
    os.mkfifo(folder / "fifo")
    kinds = {"fifo": "p", "socket": "s"}
    if ROOT:
        os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(folder / "loop", stat.S_IFBLK | 0o666, os.makedev(7, 200))
        kinds |= {"null": "c", "loop": "b"}
    at = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{at}/socket")
        os.close(at)
        yield kinds


def test_pipes_sockets_and_devices_are_named_and_never_opened(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home.uploads, b"a.pdf")
    opened: list[str] = []
    really = os.open

    def noting(path: Any, *args: Any, **more: Any) -> int:
        opened.append(os.fsdecode(path).rpartition("/")[2])
        return really(path, *args, **more)

    with others(home.uploads) as kinds:
        monkeypatch.setattr(os, "open", noting)
        made = home.create("--json")
        restored = home.restored()

    assert made.code == 0
    assert not set(opened) & set(kinds)
    assert "a.pdf" in opened
    assert {note.split(":")[0] for note in made.json()["notes"]} == {f"data/uploads/{name}" for name in kinds}
    assert os.listdir(restored) == ["a.pdf"]


@pytest.mark.parametrize("place", ["data/chat.db", "data/storage/CURRENT", "data/.deployment-id", ".env", "logs"])
def test_a_pipe_where_a_file_should_be_makes_nobody_wait(home: Home, cli: Cli, place: str) -> None:
    pipe = home.top / "project" / place
    pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(pipe)
    put(home.uploads, b"a.pdf")

    made = cli("create", "-C", home.top / "project", "--no-qdrant-snapshot", "--include-env", "--include-logs")

    assert made.code in (1, 2, 3), made.err
    assert "Traceback" not in made.err
    assert made.code != 3 or "lacks" in made.err


def times_and_modes(folder: Path) -> None:
    """What is easily lost: bits beyond rwx, times before 1970, in 2261, at 1970 itself, to the nanosecond."""
    for name, mode, mtime_ns in [
        ("setuid", 0o4755, 1),
        ("setgid", 0o2755, 0),
        ("sticky", 0o1644, -1),
        ("nobody", 0, -86_400_000_000_001),
        ("old", 0o400, -2_000_000_000 * 10**9),
        ("late", 0o666, 9_214_646_400_000_000_007),
        ("large", 0o640, 0),
    ]:
        (folder / name).write_bytes(b"x" * (3 * MIB if name == "large" else 5))
        (folder / name).chmod(mode)
        os.utime(folder / name, ns=(1, mtime_ns))
    (folder / "kept").mkdir()
    (folder / "kept").chmod(0o3750)
    os.symlink("nowhere", folder / "link")
    for name in ("kept", "link"):
        os.utime(folder / name, ns=(7, -5_000_000_007), follow_symlinks=False)


@pytest.mark.skipif(not ROOT, reason="only root reads a file of mode 0")
def test_modes_and_times_come_back_to_the_last_bit(home: Home) -> None:
    times_and_modes(home.uploads)
    if (home.uploads / "late").stat().st_mtime_ns != 9_214_646_400_000_000_007:
        pytest.skip("this file system has no such time")
    before = look(home.uploads)

    assert look(home.there_and_back()) == before


def test_a_clone_has_the_recorded_time_whatever_it_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system clones: also the first second of 1970. The kernel's part is done by copying."""

    def cloned(target: int, _request: int, source: int) -> int:
        os.sendfile(target, source, 0, os.fstat(source).st_size)
        return 0

    for name, mtime_ns in {"zero": 0, "before": -1, "now": 1_600_000_000_123_456_789}.items():
        (home.uploads / name).write_bytes(name.encode() * MIB)
        os.utime(home.uploads / name, ns=(1, mtime_ns))
    monkeypatch.setattr(bringing, "clone", cloned)

    assert look(home.there_and_back()) == look(home.uploads)


@pytest.mark.skipif(not ROOT, reason="only root can give a file away")
def test_owners_come_back_as_root(home: Home) -> None:
    put(home.uploads, b"theirs")
    (home.uploads / "theirs").chmod(0o4755)
    os.chown(home.uploads / "theirs", 12345, 23456)
    (home.uploads / "theirs").chmod(0o4755)

    found = (home.there_and_back() / "theirs").stat()

    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o4755)


def test_extended_attributes_cost_nothing_but_themselves(home: Home) -> None:
    """Documented: they are not kept (README, Limits)."""
    put(home.uploads, b"a.pdf")
    try:
        os.setxattr(home.uploads / "a.pdf", "user.origin", b"scanner")
    except OSError:
        pytest.skip("this file system has none")

    assert look(home.there_and_back()) == look(home.uploads)
    limits = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    assert "Extended attributes, ACLs and hard links between source files are not kept." in limits


# -- many ----------------------------------------------------------------------------------------------


def test_empty_files_and_folders_come_back(home: Home) -> None:
    for number in range(200):
        put(home.uploads, b"%d" % number, b"")
    (home.uploads / "empty" / "empty").mkdir(parents=True)
    before = look(home.uploads)

    assert look(home.there_and_back()) == before
    assert sum(1 for entry in entries(only_backup(home.root)).values() if "uploads/" in entry.path) == 202


def peak(folder: Path, staging: Path) -> int:
    """Bytes that capturing it takes at most."""
    staging.mkdir()
    source = Source(Part.UPLOADS, Kind.TREE, "uploads", folder, PurePosixPath("uploads"))
    tracemalloc.start()
    try:
        capture(source, staging, lambda _: None, lambda _: None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_folder_of_many_files_takes_a_name_s_memory_for_each(tmp_path: Path) -> None:
    sizes = {}
    for count in (300, 2300):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        for number in range(count):
            (folder / f"file-{number:06}").touch()
        sizes[count] = peak(folder, tmp_path / f"staging-{count}")

    assert (sizes[2300] - sizes[300]) / 2000 < 250


# -- other file systems --------------------------------------------------------------------------------


@contextmanager
def mounted(at: Path) -> Iterator[Path]:
    at.mkdir()
    if not ROOT or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", at], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def test_what_is_mounted_below_a_source_is_captured_and_named(home: Home) -> None:
    """docs/adr/0010: the border of a file system is crossed, and the backup says so."""
    put(home.uploads, b"a.pdf")
    with mounted(home.uploads / "nas") as nas:
        put(nas, b"b.pdf")
        before = look(home.uploads)

        assert look(home.there_and_back()) == before

        notes = fmt.read_record((only_backup(home.root) / fmt.RECORD).read_bytes()).notes
        assert notes == ("data/uploads/nas: another file system is mounted here; captured with the rest",)
