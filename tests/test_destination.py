"""The place of the backups fails: full, out of inodes, over quota, read-only, closed. What is said, and what is left.

Small real file systems where root may mount them; system calls that fail, by strace, for what cannot be made real.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import Cli
from tests.environments import DocMindV2
from tests.faults import strace
from tests.standin import StandIn

from docmind_backup import executor

MIB = 1024 * 1024
ONLY = ("--only", "chat")
Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """A tmpfs of its own with these options, or `ext4` in an image of 12 MB of which root has no share."""
    place = tmp_path / "small disk"
    place.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
        if options == "ext4":
            image = tmp_path / "image"
            image.touch()
            os.truncate(image, 12 * MIB)
            if shutil.which("mkfs.ext4") is None:
                pytest.skip("mkfs.ext4 is not installed")
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
            command = ["mount", "-o", "loop", image, place]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a file system of a test's own needs root and the right to mount")
        return place

    yield mounted
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


@pytest.fixture(autouse=True)
def _to_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_FREE", "0")


def free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def fill(place: Path) -> None:
    """Not a byte is left, and not a block for the name of a folder."""
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(1024)):
            pass
    assert free(place) == 0


def backups_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*backup_*"))


def left_of_runs(root: Path) -> list[str]:
    found = (*root.glob(".staging-*"), *root.glob(".trash/*"), *root.rglob(".*.tmp"))
    return [str(path.relative_to(root)) for path in found]


# -- full ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["size=4m", "ext4"])
def test_prune_frees_space_on_a_disk_without_a_free_block(options: str, cli: Cli, env: DocMindV2, mount: Mount) -> None:
    root = mount(options)
    to_disk = ("-C", env.project, "--dest", root)
    for _ in range(3):
        assert cli("create", *to_disk, *ONLY, "--no-prune", "--no-share").code == 0
    newest = cli("list", *to_disk, "--json").json()[0]["id"]
    fill(root)

    pruned = cli("prune", *to_disk, "--keep-last", "1")

    assert pruned.code == 0, pruned.err
    assert backups_in(root) == [f"backup_{newest}"]
    assert free(root) > 2 * env.chat_db.stat().st_size
    assert left_of_runs(root) == []
    assert cli("verify", "--all", *to_disk).code == 0
    (root / "filler").unlink()
    assert cli("create", *to_disk, *ONLY).code == 0


def test_out_of_inodes_is_refused_beforehand_and_called_that(cli: Cli, env: DocMindV2, mount: Mount) -> None:
    root = mount("size=64m,nr_inodes=30")

    made = cli("create", "-C", env.project, "--dest", root)

    assert made.code == 13
    assert "inodes are needed" in made.err
    assert backups_in(root) == left_of_runs(root) == []


def test_out_of_inodes_in_the_middle_is_called_that_too_and_leaves_nothing(
    cli: Cli, env: DocMindV2, server: StandIn, mount: Mount
) -> None:
    root = mount("size=64m,nr_inodes=400")
    to_disk = ("-C", env.project, "--dest", root)
    assert cli("create", *to_disk, *ONLY).code == 0
    (earlier,) = backups_in(root)
    there = os.statvfs(root).f_favail

    def many_more() -> None:
        for number in range(there):
            (env.uploads / f"more-{number}").touch()

    server.faults.before("GET", "/cluster", many_more)
    made = cli("create", *to_disk)

    assert made.code == 13
    assert "has no inodes left" in made.err
    assert "Traceback" not in made.err
    assert backups_in(root) == [earlier]
    assert left_of_runs(root) == []
    assert os.statvfs(root).f_favail >= there - 4
    assert cli("verify", "--all", *to_disk).code == 0


def test_what_grows_during_the_run_is_stopped_where_the_application_can_still_write(
    cli: Cli, env: DocMindV2, server: StandIn, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor, step = 6 * MIB, MIB // 4
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_FREE", str(floor))
    monkeypatch.setattr(executor, "ROOM_EVERY", step)
    root = mount("size=24m")
    least = free(root)
    really = executor._check_room

    def look(staging: Path, min_free: int) -> None:
        nonlocal least
        least = min(least, free(staging))
        really(staging, min_free)

    monkeypatch.setattr(executor, "_check_room", look)
    server.faults.before("GET", "/cluster", lambda: (env.uploads / "grown").write_bytes(os.urandom(40 * MIB)))
    made = cli("create", "-C", env.project, "--dest", root)

    assert made.code == 13
    seen_here = "more has changed than fits" in made.err
    assert seen_here or "a collection snapshot of" in made.err  # a download that begins then may look first
    assert floor - 4 * MIB < least
    assert least < floor or not seen_here
    assert backups_in(root) == left_of_runs(root) == []
    assert free(root) > 23 * MIB


def test_on_a_disk_that_it_shares_with_the_application_the_floor_is_kept(
    cli: Cli, env: DocMindV2, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preflight: what is there counts already, what comes has to leave the floor."""
    disk = mount("size=16m")
    moved = disk / "docmind"
    shutil.copytree(env.project, moved, symlinks=True)
    (moved / "data/uploads/big.pdf").write_bytes(os.urandom(8 * MIB))
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_FREE", str(2 * MIB))

    made = cli("create", "-C", moved, "--no-qdrant-snapshot")

    assert made.code == 13
    assert "have to stay free" in made.err
    assert backups_in(moved / "data/backups") == []
    (moved / "data/uploads/written by the application").write_bytes(os.urandom(2 * MIB))


def test_events_that_cannot_be_written_cost_a_warning_and_no_backup(cli: Cli, env: DocMindV2, tmp_path: Path) -> None:
    folder = tmp_path / "no file"
    folder.mkdir()

    made = cli("create", "-C", env.project, *ONLY, "--events", folder)
    full = cli("create", "-C", env.project, *ONLY, "--events", "/dev/full")

    assert made.code == full.code == 0
    assert f"warning: the event was not written to {folder}: Is a directory" in made.err
    assert "warning: the event was not written to /dev/full: No space left on device" in full.err
    assert len(backups_in(env.backups)) == 2


# -- calls that fail -----------------------------------------------------------------------------


QUOTA = (13, "is full")
DENIED = (1, "Permission denied")
FAILED = (1, "Input/output error")
REFUSED = (1, "Operation not permitted")


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("syncfs:error=EDQUOT", QUOTA),
        ("syncfs:error=EIO", FAILED),
        ("mkdir:error=EDQUOT:when=4+", QUOTA),
        ("mkdir:error=EACCES:when=1+", DENIED),
        ("rename:error=EACCES:when=1+", DENIED),
        ("chmod:error=EPERM:when=1+", REFUSED),
    ],
)
def test_a_call_that_fails_is_said_in_words_and_publishes_nothing(
    rule: str, wanted: tuple[int, str], cli: Cli, env: DocMindV2
) -> None:
    """Over quota; a closed folder, as a server's root-squash has it; a file system without permissions; a bad disk."""
    if problem := strace.missing():
        pytest.skip(problem)
    words = ["create", "-C", str(env.project), "--only", "uploads,chat"]

    done = subprocess.run(
        [*strace.injecting(*rule.split(":", 1)), sys.executable, "-m", "docmind_backup", *words],
        capture_output=True,
        text=True,
        check=False,
    )

    code, said = wanted
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert backups_in(env.backups) == left_of_runs(env.backups) == []
    if (env.backups / "events.jsonl").exists():
        event = json.loads((env.backups / "events.jsonl").read_text().splitlines()[-1])
        assert (event["event"], event["exit_code"]) == ("backup_failed", code)
    assert cli(*words).code == 0


def test_on_a_read_only_disk_what_writes_says_so_and_what_plans_works(cli: Cli, env: DocMindV2, mount: Mount) -> None:
    root = mount("size=4m")
    to_disk = ("-C", env.project, "--dest", root)
    assert cli("create", *to_disk, *ONLY).code == 0
    before = sorted(root.rglob("*"))
    subprocess.run(["mount", "-o", "remount,ro", root], check=True)

    for words in (("create", *ONLY), ("prune", "--keep-last", "1"), ("hold", "latest")):
        done = cli(*words, *to_disk)
        assert (done.code, "Read-only file system" in done.err) == (1, True), words
    for words in (("create", "-n", *ONLY), ("prune", "-n", "--keep-last", "1"), ("restore-plan", "latest")):
        assert cli(*words, *to_disk).code in (0, 3), words
    assert cli("restore", "latest", "--dry-run", *to_disk).code in (0, 3)
    assert sorted(root.rglob("*")) == before


# -- who may read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o027, 0o077])
def test_everything_in_the_root_is_private_whatever_the_umask(
    mask: int, cli: Cli, env: DocMindV2, tmp_path: Path
) -> None:
    root = tmp_path / "backups"
    to_root = ("-C", env.project, "--dest", root)
    before = os.umask(mask)
    try:
        for words in (("create",), ("create",), ("verify", "latest"), ("hold", "latest")):
            assert cli(*words, *to_root).code == 0
    finally:
        os.umask(before)

    for path in (root, *root.rglob("*")):
        found = path.lstat()
        wanted = (0o700,) if stat.S_ISDIR(found.st_mode) else (0o400, 0o600)
        assert stat.S_IMODE(found.st_mode) in wanted, path


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to somebody else")
def test_a_root_of_another_owner_is_used_and_left_to_them(cli: Cli, env: DocMindV2, tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    root.mkdir(mode=0o755)
    os.chown(root, 65534, 65534)

    assert cli("create", "-C", env.project, "--dest", root).code == 0

    assert (root.stat().st_uid, stat.S_IMODE(root.stat().st_mode)) == (65534, 0o755)
    assert all(stat.S_IMODE(path.lstat().st_mode) in (0o700, 0o600, 0o400) for path in root.rglob("*"))


# -- one inside the other -------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["data/uploads", "data/uploads/deep/below", "data/storage"])
def test_backups_inside_a_source_are_refused(where: str, cli: Cli, env: DocMindV2) -> None:
    before = sorted(env.project.rglob("*"))

    made = cli("create", "-C", env.project, "--dest", env.project / where)

    assert made.code == 2
    assert "hint:" in made.err
    assert sorted(env.project.rglob("*")) == before


def test_a_link_into_a_source_is_refused_as_well(cli: Cli, env: DocMindV2, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(env.uploads)

    assert cli("create", "-C", env.project, "--dest", tmp_path / "elsewhere").code == 2
    assert cli("create", "-C", env.project, "--dest", tmp_path / "elsewhere" / "b").code == 2
    assert not (env.uploads / "b").exists()


def test_a_source_inside_a_backup_is_refused(cli: Cli, env: DocMindV2, tmp_path: Path) -> None:
    """The environment lies where the backups are."""
    root = tmp_path / "backups"
    moved = root / "backup_20260101_000000_0123456789ab" / "docmind"
    moved.parent.mkdir(parents=True)
    env.project.rename(moved)

    made = cli("create", "-C", moved, "--dest", root)

    assert made.code == 2
    assert not (root / ".backup.lock").exists()
