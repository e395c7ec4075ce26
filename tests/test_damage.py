"""What rots and what is forged: every file in turn, documents of a gigabyte, a disk that refuses, moved catalogs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.catalogs import clone, contents, entries, flip, made_by_the_command_line, overwrite, record, write_record
from tests.conftest import Cli, Result
from tests.environments import build_v2
from tests.faults import strace

from docmind_backup import verify as verifying
from docmind_backup.catalog import RECORD_LIMIT, Catalog, read_limited
from docmind_backup.copying import Copier
from docmind_backup.core import format as fmt
from docmind_backup.core.model import FileEntry, Seal
from docmind_backup.core.verifier import Observed, Unread, Verdict, Verification
from docmind_backup.errors import Interrupted
from docmind_backup.looking import Look
from docmind_backup.rounds import Extent, Verifier
from docmind_backup.sharing import sharers
from docmind_backup.verify import Known, verify

GB = 1 << 30
DAY = timedelta(days=1)
START = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by_the_command_line(tmp_path_factory.mktemp("made"), "--no-share")


@pytest.fixture
def backup(pristine: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "root" / pristine.name
    shutil.copytree(pristine, copied, symlinks=True)
    return copied


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of one file of 37 bytes."""
    from docmind_backup.cli import main

    env = build_v2(tmp_path_factory.mktemp("tiny") / "docmind", analytics=False)
    assert main(["create", "-C", str(env.project), "--only", "identity", "--quiet"]) == 0
    (found,) = env.backups.glob("backup_*")
    return found


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "root" / tiny.name
    shutil.copytree(tiny, copied)
    return copied


def in_catalog(cli: Cli, backup: Path, command: str, *args: object) -> Result:
    """A command of the environment that the backup is of: prune judges only its own."""
    return cli(command, *args, "-C", record(backup).project, "--dest", backup.parent)


def stored(backup: Path) -> list[str]:
    """Every file of a backup, its own five among them."""
    files = (path for path in backup.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(str(path.relative_to(backup)) for path in files)


def named(backup: Path) -> set[tuple[str, str]]:
    """What a whole verification finds: (kind, path)."""
    return {(type(finding).__name__, finding.path) for finding in verify(backup).findings}


# -- every file in turn --------------------------------------------------------------------------


def test_one_bit_in_any_file_is_found_and_that_file_alone_is_named(backup: Path) -> None:
    """Another bit of another byte each time, wherever the file is cut into blocks."""
    paths = stored(backup)
    assert len(paths) > 30
    for number, path in enumerate(paths):
        size = (backup / path).stat().st_size
        at, bit = number * 7919 % size if size else 0, number % 8
        if size:
            flip(backup / path, at, bit)
            assert named(backup) == {("Altered", path)}, (path, at, bit)
            flip(backup / path, at, bit)
    assert verify(backup).verdict is Verdict.INTACT


def test_any_file_cut_off_longer_or_gone_is_found_by_its_name(backup: Path) -> None:
    """In turn: each file has one of the three happen to it."""
    for number, path in enumerate(stored(backup)):
        full = backup / path
        raw, times = full.read_bytes(), full.stat()
        changed = (raw[:-1] if raw else None, raw + b"\0", None)[number % 3]
        full.unlink()
        if changed is not None:
            full.write_bytes(changed)
        kinds = {kind for kind, where in named(backup) if where == path}
        assert kinds == {"Missing" if changed is None else "Altered"}, path
        full.unlink(missing_ok=True)
        full.write_bytes(raw)
        os.utime(full, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert verify(backup).verdict is Verdict.INTACT


def test_a_file_added_to_any_folder_is_found_and_left(backup: Path) -> None:
    folders = sorted(path for path in backup.rglob("*") if path.is_dir() and not path.is_symlink())
    for folder in (backup, *folders):
        (folder / "added").write_text("by somebody")
        assert named(backup) == {("Unexpected", str((folder / "added").relative_to(backup)))}
        (folder / "added").unlink()


def test_no_bit_of_a_seal_turns_damage_into_a_whole_backup(small: Path) -> None:
    """A seal that cannot be read is none: the backup is as if never verified."""
    catalog = Catalog(small.parent)
    bad = Seal(fmt.record_digest((small / fmt.RECORD).read_bytes()), START, "full", intact=False)
    raw = fmt.seal_bytes(bad)
    for at in range(len(raw)):
        for bit in range(8):
            rotten = bytearray(raw)
            rotten[at] ^= 1 << bit
            with suppress(ValueError):
                assert not fmt.read_seal(bytes(rotten)).intact
    assert catalog.remember(small, bad)
    (seal,) = (catalog.root / ".state" / "seals").iterdir()
    flip(seal, len(raw) // 2)
    assert [found.directory for found in catalog.backups()] == [small]


# -- documents of a gigabyte ---------------------------------------------------------------------

BOUNDED = """
import resource, sys, threading
from docmind_backup import deep, engines, foreign, looking, operations, picking, proving, restores, rounds, scripting
from docmind_backup.cli import main
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[1]), held + int(sys.argv[1])))
for words in sys.argv[2].split(";"):
    print("exit", main(words.split()), flush=True)
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
ROOM = 256 << 20
"""Bytes of address space that a command may ask for beyond what its modules take: a quarter of the document."""


def bounded(*commands: str, room: int = ROOM) -> list[int]:
    """The exit codes of commands that run one after the other in a process with so much memory."""
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(room), ";".join(commands)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "MemoryError" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("exit ")]


def grown(path: Path, size: int = GB) -> None:
    """A hole behind its content: it reads as zeros and takes no room."""
    path.chmod(0o600)
    os.truncate(path, size)


def test_the_limit_is_one_that_a_reader_without_bounds_would_meet(small: Path) -> None:
    """The proof of the three tests below: reading such a file at once does not fit."""
    grown(small / fmt.MANIFEST)
    code = BOUNDED.replace("for words in", f"open({str(small / fmt.MANIFEST)!r}, 'rb').read()\nfor words in")

    done = subprocess.run([sys.executable, "-c", code, str(ROOM), "--version"], capture_output=True, check=False)

    assert b"MemoryError" in done.stderr


def test_a_record_of_a_gigabyte_is_damage_and_costs_no_memory(small: Path) -> None:
    other, project = clone(small, 2), record(small).project
    grown(small / fmt.RECORD)
    where = f"-C {project} --dest {small.parent}"

    codes = bounded(
        f"verify {small} {where}",
        f"show {small} {where}",
        f"list {where}",
        f"restore-plan {small} {where}",
        f"prune --dry-run {where} --keep-last 1",
        f"verify {other} {where}",
    )

    assert codes == [4, 4, 0, 4, 0, 0]
    assert small.is_dir()


def test_lists_own_and_anothers_manifests_of_a_gigabyte_cost_no_memory(small: Path) -> None:
    """The inventory is one line of zeros, and the record says so: it is what the readers get to see."""
    other = clone(small, 2)
    grown(small / fmt.MANIFEST)
    (small / fmt.INVENTORY).unlink()
    os.link(small / fmt.MANIFEST, small / fmt.INVENTORY)  # one file: what is known of it is read once
    os.truncate(small / fmt.MANIFEST, 0)
    os.truncate(small / fmt.MANIFEST, GB)
    zeros = _sha256_of_zeros(GB)
    write_record(small, replace(record(small), digests={**record(small).digests, fmt.INVENTORY: zeros}))
    foreign = small.parent / "backup_20250101_000000"
    foreign.mkdir()
    (foreign / fmt.MANIFEST).touch()
    grown(foreign / fmt.MANIFEST)
    where = f"-C {record(small).project} --dest {small.parent}"

    codes = bounded(
        f"verify {small} {where}",
        f"restore {small} data/.deployment-id --to {small.parent.parent / 'out'} --yes {where}",
        f"verify {foreign} {where}",
        f"show {foreign} {where}",
        f"list {where}",
        f"prune {where} --keep-last 1",
        f"verify {other} {where}",
    )

    assert codes[0] == 4
    assert codes[1] in (4, 5)
    assert codes[2] == 4
    assert codes[3] in (4, 5, 10)
    assert codes[4:] == [0, 0, 0]
    assert all(path.is_dir() for path in (small, other, foreign))


def _sha256_of_zeros(size: int) -> str:
    import hashlib

    digest, block = hashlib.sha256(), bytes(1 << 20)
    for _ in range(size >> 20):
        digest.update(block)
    return digest.hexdigest()


@pytest.mark.parametrize("filling", [b"[],", b"1.5,"], ids=["lists", "numbers"])
def test_brackets_by_the_million_are_refused_before_they_become_lists(small: Path, filling: bytes) -> None:
    """Nine megabytes that are no record. Parsed, lists take twenty times their room."""
    overwrite(small / fmt.RECORD, b"[" + filling * 3_000_001 + b"0]")

    with pytest.raises(ValueError, match="far too many values"):
        read_limited(small / fmt.RECORD)
    assert named(small) == {("Altered", fmt.RECORD)}


def test_a_manifest_with_as_many_files_as_fit_is_read(tmp_path: Path) -> None:
    """The bound is beyond what an honest manifest of that size holds."""
    entry = b'{"path": "report.pdf", "sha256": "%b", "size_bytes": 1000000}, ' % (b"0" * 64)
    path = tmp_path / "manifest.json"
    path.write_bytes(b'{"uploads": {"files": [' + entry * ((RECORD_LIMIT - 100) // len(entry)) + b"{}]}}")

    assert RECORD_LIMIT - 300 < len(read_limited(path)) <= RECORD_LIMIT


# -- a disk that refuses -------------------------------------------------------------------------


def test_what_the_disk_refuses_is_never_called_intact(cli: Cli, backup: Path) -> None:
    """EIO from the kernel, at the reading of one file."""
    if problem := strace.missing():
        pytest.skip(problem)
    path = next(path for path in stored(backup) if path.endswith(".pdf"))
    where = ["-C", str(backup.parent.parent), "--dest", str(backup.parent)]
    assert cli("verify", "latest", *where, "--quiet").code == 0
    rule = ["-o", "/dev/null", "-P", str(backup / path), "-e", "inject=read,pread64,preadv,preadv2:error=EIO"]

    done = subprocess.run(
        ["strace", "-f", "-qq", *rule, sys.executable, "-m", "docmind_backup", "verify", "latest", "--json", *where],
        capture_output=True,
        text=True,
        check=False,
    )

    (found,) = json.loads(done.stdout)
    assert (done.returncode, found["verdict"]) == (5, "not fully checked")
    assert [(f["kind"], f["path"]) for f in found["findings"]] == [("unreadable", path)]
    assert found["files"] >= len(stored(backup)) - 6
    assert in_catalog(cli, backup, "list", "--json").json()[0]["unread_at"]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Files that the disk refuses to read, from now on."""
    paths: set[Path] = set()
    read = verifying._read

    def fail(path: Path, copier: Copier, known: Known) -> Observed:
        if path in paths:
            raise OSError(errno.EIO, "Input/output error")
        return read(path, copier, known)

    monkeypatch.setattr(verifying, "_read", fail)
    return paths


def run(backup: Path, extent: Extent | None = None, now: datetime = START) -> Verification:
    found = Verifier(Look(Catalog(backup.parent), lambda: now), [backup], extent or Extent()).verify(backup)
    assert isinstance(found, Verification)
    return found


def upload(backup: Path) -> Path:
    return next(backup / path for path in stored(backup) if path.endswith(".pdf") and path.startswith("data/uploads"))


def test_a_backup_that_cannot_be_read_wholly_lets_none_go_until_it_can(
    cli: Cli, backup: Path, refused: set[Path]
) -> None:
    older = clone(backup, 0)
    assert run(backup).exit_code == 0
    refused.add(upload(backup))
    assert run(backup, now=START + DAY).exit_code == 5

    doubted = Catalog(backup.parent).read(backup)

    assert doubted.seal
    assert (doubted.counts, doubted.damaged, doubted.seal.verified_at) == (False, False, START)
    assert doubted.seal.unread_at == START + DAY
    assert "UNREADABLE" in in_catalog(cli, backup, "list").out
    assert "COULD NOT BE READ" in in_catalog(cli, backup, "show", backup.name).out
    assert Path(in_catalog(cli, backup, "show", "latest", "--json").json()["directory"]) == older
    pruned = in_catalog(cli, backup, "prune", "--keep-last", "1", "--keep-incomplete", "0", "--json").json()
    assert (pruned["removed"], len(pruned["verdicts"])) == ([], 2)
    assert run(backup, Extent(quick=True), START + 2 * DAY).exit_code == 0
    assert Catalog(backup.parent).read(backup).doubted
    refused.clear()
    assert run(backup, now=START + 3 * DAY).exit_code == 0
    assert Catalog(backup.parent).read(backup).counts


def test_a_part_that_meets_the_refused_file_remembers_it_and_a_part_that_does_not_forgets_nothing(
    backup: Path, refused: set[Path]
) -> None:
    files = [backup / path for path, entry in entries(backup).items() if isinstance(entry, FileEntry)]
    refused.add(files[-1])
    catalog = Catalog(backup.parent)

    assert run(backup, Extent(percent=100)).exit_code == 5
    assert catalog.read(backup).doubted
    assert run(backup, Extent(percent=0.001), START + DAY).exit_code in (0, 5)
    assert catalog.read(backup).doubted
    refused.clear()
    assert run(backup, Extent(percent=100), START + 2 * DAY).exit_code == 0
    found = catalog.read(backup)
    assert (found.doubted, found.verified) == (False, True)


def test_damage_outlives_a_file_that_cannot_be_read(backup: Path, refused: set[Path]) -> None:
    flip(backup / "data" / "chat.db", 0)
    assert run(backup).exit_code == 4
    flip(backup / "data" / "chat.db", 0)
    refused.add(upload(backup))

    assert run(backup, now=START + DAY).exit_code == 5

    assert Catalog(backup.parent).read(backup).damaged


def test_backups_that_share_the_refused_file_are_in_doubt_too(backup: Path, refused: set[Path]) -> None:
    sharer, own = clone(backup, 2), clone(backup, 3)
    path = upload(backup)
    shared = sharer / path.relative_to(backup)
    shared.unlink()
    os.link(path, shared)
    catalog = Catalog(backup.parent)
    assert [b.directory for b in sharers(backup, [str(path.relative_to(backup))], catalog.backups())] == [sharer]
    refused.add(path)

    run(backup)

    assert {b.directory for b in catalog.backups() if b.doubted} == {backup, sharer}
    assert catalog.read(own).counts


def test_what_cannot_be_read_is_not_shared_with(cli: Cli, tmp_path: Path, refused: set[Path]) -> None:
    env = build_v2(tmp_path / "docmind", analytics=False)
    one = ("create", "-C", env.project, "--only", "uploads", "--json", "--no-prune")
    first = Path(cli(*one).json()["directory"])
    refused.add(upload(first))
    run(first)

    second = cli(*one).json()

    assert second["own_bytes"] == second["bytes"] > 0
    assert upload(Path(second["directory"])).stat().st_nlink == 1


# -- interrupted ---------------------------------------------------------------------------------


def test_an_interrupted_verification_keeps_what_is_done_and_the_next_begins_with_the_rest(backup: Path) -> None:
    three = [backup, clone(backup, 2), clone(backup, 3)]
    catalog = Catalog(backup.parent)
    done: list[Path] = []

    def interrupt(_event: object) -> None:
        if len(done) == 2:
            raise Interrupted(2)

    def all_of_them() -> None:
        verifier = Verifier(Look(catalog, lambda: START), three, Extent(max_age=DAY))
        for directory in verifier.order:
            verifier.verify(directory, interrupt)
            done.append(directory)

    with pytest.raises(Interrupted):
        all_of_them()

    again = Verifier(Look(catalog, lambda: START + DAY / 2), three, Extent(max_age=DAY))
    (left,) = set(three) - set(done)
    assert again.order[0] == left
    assert isinstance(again.verify(left), Verification)
    assert all(isinstance(again.verify(directory), Unread) for directory in done)


# -- catalogs that move --------------------------------------------------------------------------


def test_a_catalog_on_another_disk_is_the_same_with_its_seals_its_holds_and_its_numbers(
    cli: Cli, tmp_path: Path
) -> None:
    env = build_v2(tmp_path / "docmind", analytics=False)
    one = ("create", "-C", env.project, "--only", "identity", "--json")
    first = cli(*one, "--dest", tmp_path / "old").json()["id"]
    second = cli(*one, "--dest", tmp_path / "old").json()["id"]
    assert cli("hold", first, "-C", env.project, "--dest", tmp_path / "old", "--reason", "audit").code == 0
    assert cli("verify", "--all", "-C", env.project, "--dest", tmp_path / "old").code == 0
    subprocess.run(["cp", "-a", tmp_path / "old", tmp_path / "new"], check=True)
    shutil.rmtree(tmp_path / "old")

    third = cli(*one, "--dest", tmp_path / "new").json()["id"]

    listed = cli("list", "-C", env.project, "--dest", tmp_path / "new", "--json").json()
    assert [(b["id"], b["sequence"], b["held"], b["verified"]) for b in listed] == [
        (third, 3, None, None),
        (second, 2, None, "intact"),
        (first, 1, "audit", "intact"),
    ]
    assert cli("verify", "--all", "-C", env.project, "--dest", tmp_path / "new").code == 0


def test_a_renamed_folder_keeps_its_id_and_is_left_alone_by_prune(cli: Cli, small: Path) -> None:
    newer = clone(small, 2)
    moved = small.rename(small.parent / "before the upgrade")

    assert in_catalog(cli, newer, "verify", moved, "--json").json()[0]["id"] == record(moved).id
    assert in_catalog(cli, newer, "prune", "--keep-last", "1").code == 0
    assert moved.is_dir()


def test_what_is_foreign_in_the_root_is_no_backup_and_stays(cli: Cli, small: Path) -> None:
    root = small.parent
    (root / "notes.txt").write_text("mine")
    (root / "restic" / "data").mkdir(parents=True)
    (root / "restic" / "data" / "00").write_bytes(b"pack")
    (root / "backup_of_my_photos").mkdir()
    (root / "backup_20260101_000000").write_text("a file with a backup's name")
    before = {path: what for path, what in contents(root).items() if not path.startswith((small.name, ".state"))}
    newer = clone(small, 2)

    assert in_catalog(cli, newer, "verify", "--all").code == 0
    assert in_catalog(cli, newer, "prune", "--keep-last", "1").code == 0

    assert not small.exists()
    assert {path: what for path, what in contents(root).items() if path in before} == before
    assert [b["directory"] for b in in_catalog(cli, newer, "list", "--json").json()] == [str(newer)]
