"""What `verify` promises: whatever happened to a backup since it was made is found, and named by its path."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import (
    backups,
    clone,
    contents,
    entries,
    flip,
    made_by_the_command_line,
    overwrite,
    record,
    reseal,
    rewrite,
    write_record,
)
from tests.conftest import Cli, Result

from docmind_backup.core import format as fmt
from docmind_backup.core.model import FileEntry, LinkEntry, Omission, Part, Reason

KINDS = {
    "upload": "data/uploads/*.pdf",
    "upload in flight": "data/.pending-uploads/*/*.pdf",
    "artifact": "data/artifacts/*",
    "index snapshot": "data/storage/*/graph/docstore.json",
    "CURRENT": "data/storage/CURRENT",
    "deployment id": "data/.deployment-id",
    "chats": "data/chat.db",
    "cache": "cache/*.duckdb",
    "analytics": "data/analytics/*.duckdb",
    "collection snapshot": "qdrant/*/*.snapshot",
    "settings": ".env",
    "log": "logs/*",
    "inventory": "inventory.jsonl",
    "manifest": "manifest.json",
    "sums": "SHA256SUMS",
    "readme": "README.md",
}
OWN = ("backup.json", "inventory.jsonl", "manifest.json", "SHA256SUMS", "README.md")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by_the_command_line(tmp_path_factory.mktemp("made"))


@pytest.fixture
def backup(pristine: Path, tmp_path: Path) -> Path:
    """A backup of everything that a test may break, in a catalog of its own."""
    copied = tmp_path / "root" / pristine.name
    shutil.copytree(pristine, copied, symlinks=True)
    return copied


Verify = Callable[..., "Verified"]


@dataclass(frozen=True, slots=True)
class Verified:
    code: int
    found: Any
    err: str

    @property
    def findings(self) -> set[tuple[str, str]]:
        return {(f["kind"], f["path"]) for f in self.found["findings"]}


@pytest.fixture
def verify(cli: Cli, backup: Path, tmp_path: Path) -> Verify:
    """`docmind-backup verify --json` of the backup, or of what is given."""

    def run(what: object = backup, *options: object) -> Verified:
        result = cli("verify", what, "-C", tmp_path, "--dest", backup.parent, "--json", *options)
        assert "Traceback" not in result.err
        found = json.loads(result.out) if result.out else [None]
        return Verified(result.code, found[0] if len(found) == 1 else found, result.err)

    return run


def one(backup: Path, kind: str) -> str:
    """The path inside the backup of one stored file of that kind."""
    found = sorted(p for p in backup.glob(KINDS[kind]) if p.is_file() and not p.is_symlink() and p.stat().st_size)
    return str(found[0].relative_to(backup))


def in_catalog(cli: Cli, backup: Path, command: str, *args: object) -> Result:
    return cli(command, *args, "-C", backup.parent.parent, "--dest", backup.parent)


# -- intact --------------------------------------------------------------------------------------


def test_an_untouched_backup_is_intact_and_stays_untouched(verify: Verify, backup: Path) -> None:
    before = contents(backup)

    result = verify()

    assert (result.code, result.found["verdict"], result.findings) == (0, "intact", set())
    stored = [e for e in entries(backup).values() if isinstance(e, FileEntry)]
    assert (result.found["files"], result.found["bytes"]) == (len(stored), sum(e.size for e in stored))
    assert contents(backup) == before


def test_an_incomplete_backup_that_is_intact_is_intact_and_says_what_it_lacks(
    verify: Verify, cli: Cli, backup: Path
) -> None:
    lacks = Omission(Part.QDRANT, "docs__1", Reason.UNREACHABLE, "nothing answered")
    incomplete = clone(backup, 2, omissions=(lacks,))

    assert incomplete.name.startswith("incomplete-backup_")
    assert verify(incomplete).code == 0
    shown = in_catalog(cli, backup, "verify", incomplete)
    assert "lacks qdrant: docs__1: unreachable" in shown.out
    assert "intact" in shown.out


# -- one bit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_one_flipped_bit_is_found_and_only_that_file_is_named(verify: Verify, backup: Path, kind: str) -> None:
    path = one(backup, kind)
    flip(backup / path, (backup / path).stat().st_size // 2, bit=3)

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", path)})


def test_one_flipped_bit_in_a_file_whose_name_is_not_utf8_is_found(verify: Verify, backup: Path) -> None:
    odd = os.fsdecode(b"data/uploads/r\xe9sum\xe9\n.pdf")
    flip(backup / odd, 0)

    result = verify()

    (finding,) = result.found["findings"]
    assert (result.code, finding["kind"], fmt.read_path(finding)) == (4, "altered", odd)


@pytest.mark.parametrize("nth", range(16))
def test_one_flipped_bit_in_the_record_is_found_wherever_it_is(verify: Verify, backup: Path, nth: int) -> None:
    path = backup / "backup.json"
    flip(path, path.stat().st_size * nth // 16, bit=nth % 8)

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", "backup.json")})


@pytest.mark.parametrize("text", ['"format": 1', '"sequence": 1', '"record_sha256": "'])
@pytest.mark.parametrize("bit", [0, 1, 2, 3])
def test_one_flipped_bit_in_a_number_of_the_record_is_damage_and_no_newer_format(
    verify: Verify, backup: Path, text: str, bit: int
) -> None:
    path = backup / "backup.json"
    at = path.read_bytes().index(text.encode()) + len(text) - 1
    flip(path, at, bit)

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", "backup.json")})


def test_a_record_that_means_the_same_in_other_bytes_is_altered_all_the_same(verify: Verify, backup: Path) -> None:
    """`\\u00` escapes may be written in capitals: one bit, the same JSON."""
    noted = replace(record(backup), notes=("a bell \x1b",))
    write_record(backup, noted)
    raw = (backup / "backup.json").read_bytes()
    assert verify().code == 0

    overwrite(backup / "backup.json", raw.replace(b"\\u001b", b"\\u001B"))

    assert verify().findings == {("altered", "backup.json")}


# -- sizes, names and types ----------------------------------------------------------------------


@pytest.mark.parametrize("quick", [(), ("--quick",)], ids=["full", "quick"])
@pytest.mark.parametrize("kind", ["upload", "collection snapshot", "readme", "inventory"])
class TestAFileThat:
    def test_was_cut_off_is_found(self, verify: Verify, backup: Path, kind: str, quick: tuple[str, ...]) -> None:
        path = one(backup, kind)
        overwrite(backup / path, (backup / path).read_bytes()[:-1])

        result = verify(backup, *quick)

        assert (result.code, result.findings) == (4, {("altered", path)})

    def test_grew_is_found(self, verify: Verify, backup: Path, kind: str, quick: tuple[str, ...]) -> None:
        path = one(backup, kind)
        overwrite(backup / path, (backup / path).read_bytes() + b"\n")

        result = verify(backup, *quick)

        assert (result.code, result.findings) == (4, {("altered", path)})

    def test_was_deleted_is_found(self, verify: Verify, backup: Path, kind: str, quick: tuple[str, ...]) -> None:
        path = one(backup, kind)
        (backup / path).unlink()

        result = verify(backup, *quick)

        assert (result.code, result.findings) == (4, {("missing", path)})

    def test_became_a_link_is_found(
        self, verify: Verify, backup: Path, tmp_path: Path, kind: str, quick: tuple[str, ...]
    ) -> None:
        path = one(backup, kind)
        (backup / path).rename(tmp_path / "elsewhere")
        (backup / path).symlink_to(tmp_path / "elsewhere")

        result = verify(backup, *quick)

        assert (result.code, result.findings) == (4, {("altered", path)})

    def test_became_a_pipe_is_found_without_opening_it(
        self, verify: Verify, backup: Path, kind: str, quick: tuple[str, ...]
    ) -> None:
        path = one(backup, kind)
        (backup / path).unlink()
        os.mkfifo(backup / path)

        result = verify(backup, *quick)

        assert (result.code, result.findings) == (4, {("altered", path)})


@pytest.mark.parametrize("name", OWN)
def test_a_file_of_our_own_that_became_a_folder_is_found(verify: Verify, backup: Path, name: str) -> None:
    (backup / name).unlink()
    (backup / name).mkdir()

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", name)})


def test_a_record_that_became_a_link_is_altered(verify: Verify, backup: Path, tmp_path: Path) -> None:
    (backup / "backup.json").rename(tmp_path / "elsewhere")
    (backup / "backup.json").symlink_to(tmp_path / "elsewhere")

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", "backup.json")})


def test_a_record_that_became_a_pipe_is_altered_and_nobody_waits_for_a_writer(verify: Verify, backup: Path) -> None:
    (backup / "backup.json").unlink()
    os.mkfifo(backup / "backup.json")

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", "backup.json")})


@pytest.mark.parametrize("folder", ["", "data", "data/uploads", "qdrant"])
def test_an_added_file_is_unexpected_wherever_it_is(verify: Verify, backup: Path, folder: str) -> None:
    (backup / folder / "added").write_text("new")

    result = verify()

    assert (result.code, result.findings) == (4, {("unexpected", f"{folder}/added".lstrip("/"))})


def test_an_added_empty_folder_is_unexpected(verify: Verify, backup: Path) -> None:
    (backup / "data" / "extra").mkdir()

    result = verify()

    assert (result.code, result.findings) == (4, {("unexpected", "data/extra")})


def test_an_empty_folder_that_is_gone_is_missing(verify: Verify, backup: Path) -> None:
    (backup / "data" / "uploads" / "empty folder").rmdir()

    result = verify()

    assert (result.code, result.findings) == (4, {("missing", "data/uploads/empty folder")})


@pytest.mark.parametrize("folder", ["data", "data/uploads", "data/artifacts", "qdrant", "cache"])
def test_a_folder_that_became_a_link_to_the_same_content_is_named(
    verify: Verify, backup: Path, tmp_path: Path, folder: str
) -> None:
    (backup / folder).rename(tmp_path / "elsewhere")
    (backup / folder).symlink_to(tmp_path / "elsewhere")

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", folder)})


def test_a_folder_that_became_a_link_to_itself_is_named(verify: Verify, backup: Path) -> None:
    shutil.rmtree(backup / "cache")
    (backup / "cache").symlink_to("cache")

    result = verify()

    assert result.code == 4
    assert ("altered", "cache") in result.findings


def test_a_link_whose_target_changed_is_altered(verify: Verify, backup: Path) -> None:
    link = backup / "data/uploads/elsewhere.pdf"
    link.unlink()
    link.symlink_to("/etc/passwd")

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", "data/uploads/elsewhere.pdf")})


def test_a_link_to_a_folder_with_a_slash_at_its_end_is_what_it_was(verify: Verify, backup: Path) -> None:
    """`os.readlink` gives it as it is; a Path would have lost the slash."""
    added = backup / "data/uploads/folder"
    added.symlink_to("./empty folder/")
    inventory = backup / "inventory.jsonl"
    line = fmt.entry_line(LinkEntry("data/uploads/folder", os.readlink(added)))
    overwrite(inventory, inventory.read_bytes() + line)
    reseal(backup)

    assert os.readlink(added) == "./empty folder/"
    assert verify().findings == set()


def test_several_damages_are_all_named(verify: Verify, backup: Path) -> None:
    flipped, deleted = one(backup, "upload"), one(backup, "chats")
    flip(backup / flipped, 9)
    (backup / deleted).unlink()
    (backup / "added").touch()

    assert verify().findings == {("altered", flipped), ("missing", deleted), ("unexpected", "added")}


# -- damaged lists -------------------------------------------------------------------------------


def test_with_the_inventory_damaged_the_sums_take_over(verify: Verify, backup: Path) -> None:
    flip(backup / "inventory.jsonl", 100)
    upload, snapshot = one(backup, "upload"), one(backup, "collection snapshot")
    flip(backup / upload, 9)
    (backup / snapshot).unlink()
    (backup / "added").touch()

    result = verify()

    assert result.code == 4
    assert result.findings == {
        ("altered", "inventory.jsonl"),
        ("altered", upload),
        ("missing", snapshot),
        ("unexpected", "added"),
    }


def test_with_both_lists_damaged_both_are_named_and_what_the_record_names_is_still_checked(
    verify: Verify, backup: Path
) -> None:
    flip(backup / "inventory.jsonl", 100)
    flip(backup / "SHA256SUMS", 100)
    snapshot = one(backup, "collection snapshot")
    (backup / snapshot).unlink()

    result = verify()

    assert result.code == 4
    assert result.findings == {("altered", "inventory.jsonl"), ("altered", "SHA256SUMS"), ("missing", snapshot)}


def test_with_record_and_inventory_damaged_the_files_are_still_checked(verify: Verify, backup: Path) -> None:
    upload = one(backup, "upload")
    flip(backup / upload, 9)
    flip(backup / "backup.json", 200)
    flip(backup / "inventory.jsonl", 100)

    result = verify()

    assert result.code == 4
    assert result.findings == {("altered", "backup.json"), ("altered", "inventory.jsonl"), ("altered", upload)}


def test_a_path_that_is_listed_twice_is_damage(verify: Verify, backup: Path) -> None:
    inventory = backup / "inventory.jsonl"
    lines = inventory.read_bytes().splitlines(keepends=True)
    overwrite(inventory, b"".join([*lines, lines[-1]]))
    reseal(backup)

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", "inventory.jsonl")})


@pytest.mark.parametrize("path", ["../../outside", "/etc/hostname", "data/../../x", "a\\u0000b", "\\ud800"])
def test_an_inventory_that_leads_out_of_the_backup_is_refused(verify: Verify, backup: Path, path: str) -> None:
    (backup.parent.parent / "outside").write_text("not ours")
    inventory = backup / "inventory.jsonl"
    line = '{"path":"PATH","type":"file","size":8,"sha256":"' + "0" * 64 + '","mtime_ns":0,"mode":"0400"}\n'
    overwrite(inventory, inventory.read_bytes() + line.replace("PATH", path).encode())
    reseal(backup)

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", "inventory.jsonl")})


# -- the record ----------------------------------------------------------------------------------


def test_a_missing_record_is_named_and_the_files_are_still_checked(verify: Verify, backup: Path) -> None:
    upload = one(backup, "upload")
    flip(backup / upload, 9)
    (backup / "backup.json").unlink()

    result = verify()

    assert (result.code, result.findings) == (4, {("missing", "backup.json"), ("altered", upload)})


def test_a_backup_without_its_record_is_listed_as_broken_and_not_as_docminds_own(cli: Cli, backup: Path) -> None:
    (backup / "backup.json").unlink()

    (item,) = in_catalog(cli, backup, "list", "--json").json()

    assert item["kind"] == "broken"
    assert "backup.json" in item["problem"]


def _with(raw: bytes, old: bytes, new: bytes) -> bytes:
    assert old in raw
    return raw.replace(old, new, 1)


BAD_RECORDS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "zeros": lambda raw: bytes(len(raw)),
    "words": lambda raw: b"this was a record once",
    "cut off": lambda raw: raw[: len(raw) // 2],
    "a list": lambda raw: b"[]",
    "null": lambda raw: b"null",
    "a number": lambda raw: b"17",
    "deep lists": lambda raw: b"[" * 200_000,
    "deep objects": lambda raw: b'{"a":' * 200_000,
    "deep inside": lambda raw: _with(raw, b'"notes": [', b'"notes": [' + b"[" * 5_000 + b"]" * 5_000 + b","),
    "NaN": lambda raw: _with(raw, b'"sequence": 1', b'"sequence": NaN'),
    "infinite": lambda raw: _with(raw, b'"sequence": 1', b'"sequence": Infinity'),
    "a number of 5,000 digits": lambda raw: _with(raw, b'"sequence": 1', b'"sequence": ' + b"9" * 5_000),
    "a key twice": lambda raw: _with(raw, b"{\n", b'{\n  "sequence": 7,\n'),
    "byte order mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "UTF-16": lambda raw: raw.decode().encode("utf-16"),
    "not UTF-8": lambda raw: _with(raw, b'"host": "', b'"host": "\xff'),
    "65 MB": lambda raw: raw + bytes(65 * 1024 * 1024),
    "of another backup, edited": lambda raw: _with(raw, b'"host": "', b'"host": "x'),
    "no format": lambda raw: _with(raw, b'"format": 1,', b""),
}


@pytest.mark.parametrize("name", sorted(set(fmt.OWN_FILES) - {fmt.RECORD}))
def test_a_record_that_lacks_what_its_own_files_are_held_against_is_damage(
    verify: Verify, backup: Path, name: str
) -> None:
    """Such a file could be anything."""
    stated = record(backup)
    write_record(backup, replace(stated, digests={n: sha for n, sha in stated.digests.items() if n != name}))

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", "backup.json")})


@pytest.mark.parametrize("what", BAD_RECORDS)
def test_a_record_that_is_no_record_is_damage_and_never_a_traceback(
    verify: Verify, cli: Cli, backup: Path, what: str
) -> None:
    good = clone(backup, 2)
    overwrite(backup / "backup.json", BAD_RECORDS[what]((backup / "backup.json").read_bytes()))

    result = verify()

    assert (result.code, result.findings) == (4, {("altered", "backup.json")})
    listed = in_catalog(cli, backup, "list", "--json")
    assert listed.code == 0
    assert {Path(item["directory"]) for item in listed.json()} == {backup, good}
    assert in_catalog(cli, backup, "show", backup.name).code in (0, 4)
    assert in_catalog(cli, backup, "restore-plan", good.name).code in (0, 3)
    assert in_catalog(cli, backup, "prune", "--keep-last", "1", "--quiet").code == 0
    assert backups(backup.parent) == sorted([backup, good])


@pytest.mark.parametrize("newer", [{"format": 2}, {"requires": ("chunks",)}], ids=["format", "feature"])
def test_a_record_of_a_newer_format_is_exit_16_and_listed_and_left(
    verify: Verify, cli: Cli, backup: Path, newer: dict[str, Any]
) -> None:
    good = clone(backup, 2)
    write_record(backup, replace(record(backup), **newer))

    assert verify().code == 16
    assert in_catalog(cli, backup, "show", backup.name).code == 16
    kinds = {i["kind"]: i for i in in_catalog(cli, backup, "list", "--json").json()}
    assert (kinds["broken"]["directory"], kinds["broken"]["too_new"]) == (str(backup), True)
    assert verify(good).code == 0
    assert in_catalog(cli, backup, "prune", "--keep-last", "1", "--quiet").code == 0
    assert backup.exists()


# -- quick ---------------------------------------------------------------------------------------


def test_quick_says_that_contents_were_not_read_and_does_not_see_a_flipped_bit(
    verify: Verify, cli: Cli, backup: Path
) -> None:
    flip(backup / one(backup, "upload"), 9)

    quick = in_catalog(cli, backup, "verify", "--quick")

    assert quick.code == 0
    assert "by name and size" in quick.out
    assert "contents were not read" in quick.err
    assert verify(backup, "--quick").found["level"] == "quick"
    assert verify().code == 4


def test_quick_sees_names_and_sizes(verify: Verify, backup: Path) -> None:
    gone = one(backup, "chats")
    (backup / gone).unlink()
    (backup / "added").touch()

    assert verify(backup, "--quick").findings == {("missing", gone), ("unexpected", "added")}


def test_a_quick_look_that_found_nothing_is_no_verification_to_remember(verify: Verify, cli: Cli, backup: Path) -> None:
    assert verify(backup, "--quick").found["remembered"] is False
    assert in_catalog(cli, backup, "list", "--json").json()[0]["verified"] is None


def test_damage_that_a_quick_look_found_is_remembered(verify: Verify, cli: Cli, backup: Path) -> None:
    """Till then the newest one was what lets others go."""
    newer = clone(backup, 2)
    (newer / one(newer, "upload")).unlink()

    assert in_catalog(cli, backup, "verify", "latest", "--quick").code == 4

    listed = {Path(b["directory"]): b for b in in_catalog(cli, backup, "list", "--json").json()}
    assert (listed[newer]["verified"], listed[newer]["counts"]) == ("damaged", False)
    assert verify("latest").found["directory"] == str(backup)
    assert in_catalog(cli, backup, "prune", "--keep-last", "1", "--quiet").code == 0
    assert backup.exists()


# -- collection snapshots ------------------------------------------------------------------------


def forge_snapshot(backup: Path, path: str, content: bytes) -> None:
    """A collection snapshot with other content, and every hash of it consistent: only its inside can tell."""
    rewrite(backup, path, content)
    stated = record(backup)
    entry = entries(backup)[path]
    assert stated.qdrant
    assert isinstance(entry, FileEntry)
    collections = tuple(
        replace(taken, size=entry.size, sha256=entry.sha256) if taken.path == path else taken
        for taken in stated.qdrant.collections
    )
    write_record(backup, replace(stated, qdrant=replace(stated.qdrant, collections=collections)))


def test_a_collection_snapshot_that_was_cut_off_before_it_was_hashed_is_found_by_its_tar(
    verify: Verify, backup: Path
) -> None:
    path = one(backup, "collection snapshot")
    whole = (backup / path).read_bytes()
    forge_snapshot(backup, path, whole)
    assert verify().code == 0

    forge_snapshot(backup, path, whole[: len(whole) // 2 // 512 * 512])

    result = verify()
    assert (result.code, result.findings) == (4, {("altered", path)})
    assert "collection snapshot" in result.found["findings"][0]["what"]
    assert verify(backup, "--quick").code == 0


def test_a_collection_snapshot_that_the_record_names_and_nothing_else_does_is_missing(
    verify: Verify, backup: Path
) -> None:
    stated = record(backup)
    assert stated.qdrant
    first, *others = stated.qdrant.collections
    moved = replace(first, path="qdrant/nowhere/x.snapshot")
    write_record(backup, replace(stated, qdrant=replace(stated.qdrant, collections=(moved, *others))))

    result = verify()

    assert (result.code, result.findings) == (4, {("missing", "qdrant/nowhere/x.snapshot")})


# -- which backup --------------------------------------------------------------------------------


@pytest.mark.parametrize("move", ["cp -a", "mv"])
def test_a_backup_in_another_place_and_under_another_name_verifies_by_its_path(
    verify: Verify, backup: Path, tmp_path: Path, move: str
) -> None:
    elsewhere = tmp_path / "disk" / "my backup"
    elsewhere.parent.mkdir()
    subprocess.run([*move.split(), backup, elsewhere], check=True)

    result = verify(elsewhere)

    assert (result.code, result.found["id"]) == (0, record(elsewhere).id)
    flip(elsewhere / one(elsewhere, "chats"), 0)
    assert verify(elsewhere).code == 4


def test_a_relative_path_is_relative_to_where_the_user_stands(
    verify: Verify, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(backup)
    assert verify(".").code == 0
    monkeypatch.chdir(backup.parent)
    assert verify(f"./{backup.name}").code == 0


def test_latest_an_id_a_prefix_and_a_directory_name_mean_the_same_backup(verify: Verify, backup: Path) -> None:
    found = record(backup).id

    for text in ("latest", found, found[:-1], found[:15], backup.name):
        assert verify(text).found["id"] == found


def test_an_ambiguous_prefix_and_an_unknown_name_are_exit_10(verify: Verify, backup: Path) -> None:
    clone(backup, 2)
    clone(backup, 3)

    ambiguous, unknown = verify("202601"), verify("19990101")

    assert (ambiguous.code, unknown.code) == (10, 10)
    assert "any of 2 backups" in ambiguous.err
    assert "19990101" in unknown.err
    assert verify("/no/such/folder").code == 10
    assert verify("").code == 10


def test_an_empty_name_never_means_the_folder_one_stands_in(
    verify: Verify, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(backup)

    assert verify("").code == 10


def test_all_of_them_are_verified_and_the_worst_decides(cli: Cli, backup: Path) -> None:
    bad = clone(backup, 2)
    flip(bad / one(bad, "chats"), 0)
    unreadable = clone(backup, 3)
    overwrite(unreadable / "backup.json", b"{")

    result = in_catalog(cli, backup, "verify", "--all", "--json")

    assert result.code == 4
    assert {Path(f["directory"]): f["verdict"] for f in result.json()} == {
        backup: "intact",
        bad: "damaged",
        unreadable: "damaged",
    }


def test_one_that_cannot_be_checked_does_not_keep_the_others_from_being_verified(cli: Cli, backup: Path) -> None:
    newer = clone(backup, 0)
    overwrite(newer / "backup.json", b'{"format": 2}')
    recordless = clone(backup, 2)
    (recordless / "backup.json").unlink()

    result = in_catalog(cli, backup, "verify", "--all", "--json")

    assert result.code == 4
    assert {Path(f["directory"]): f["verdict"] for f in result.json()} == {backup: "intact", recordless: "damaged"}
    assert "newer" in result.err

    shutil.rmtree(recordless)
    assert in_catalog(cli, backup, "verify", "--all", "--json").code == 16


def test_the_staging_folder_of_a_run_under_way_is_not_verified(cli: Cli, backup: Path) -> None:
    shutil.copytree(backup, backup.parent / ".staging-20260101_000000_0123456789ab", symlinks=True)

    result = in_catalog(cli, backup, "verify", "--all", "--json")

    assert [Path(f["directory"]) for f in result.json()] == [backup]


# -- what is remembered --------------------------------------------------------------------------


def test_a_verification_is_remembered_until_the_record_changes(verify: Verify, cli: Cli, backup: Path) -> None:
    assert verify().found["remembered"] is True

    assert in_catalog(cli, backup, "list", "--json").json()[0]["verified"] == "intact"
    write_record(backup, replace(record(backup), notes=("another",)))
    assert in_catalog(cli, backup, "list", "--json").json()[0]["verified"] is None


def test_damage_is_remembered_and_the_backup_no_longer_counts(verify: Verify, cli: Cli, backup: Path) -> None:
    newer = clone(backup, 2)
    path = newer / one(newer, "chats")
    assert verify("latest").found["directory"] == str(newer)
    flip(path, 0)

    assert verify("latest").code == 4

    listed = {Path(b["directory"]): b for b in in_catalog(cli, backup, "list", "--json").json()}
    assert (listed[newer]["verified"], listed[newer]["counts"]) == ("damaged", False)
    assert listed[backup]["counts"] is True
    assert "DAMAGED" in in_catalog(cli, backup, "list").out
    assert verify("latest").found["directory"] == str(backup)
    flip(path, 0)
    assert verify(newer).code == 0
    assert verify("latest").found["directory"] == str(newer)


def test_a_verification_is_remembered_of_the_directory_that_was_read_and_of_no_copy(
    verify: Verify, cli: Cli, backup: Path
) -> None:
    """A copy made with `cp -a` has the same record, and its own rot."""
    copied = backup.parent / "backup_20260303_030303"
    shutil.copytree(backup, copied, symlinks=True)
    flip(copied / one(copied, "chats"), 0)

    assert verify(copied).code == 4
    assert verify(backup).code == 0

    listed = {Path(b["directory"]): b for b in in_catalog(cli, backup, "list", "--json").json()}
    assert (listed[copied]["verified"], listed[backup]["verified"]) == ("damaged", "intact")
    assert (listed[copied]["counts"], listed[backup]["counts"]) == (False, True)


def test_a_backup_outside_any_catalog_is_verified_and_nothing_is_written_beside_it(
    verify: Verify, backup: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    backup.rename(elsewhere / backup.name)

    result = verify(elsewhere / backup.name)

    assert (result.code, result.found["remembered"]) == (0, False)
    assert [path.name for path in elsewhere.iterdir()] == [backup.name]


# -- where reading or writing is not to be had ---------------------------------------------------


def _can_unshare() -> bool:
    return (
        shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0
    )


def in_private_mounts(*lines: str) -> subprocess.CompletedProcess[str]:
    """Run a script where mounts are its own; `$RUN` is the command line under test. Skips where that cannot be."""
    if os.geteuid() != 0 or not _can_unshare():
        pytest.skip("needs root and `unshare -m` to mount something over a file")
    script = "\n".join(["set -u", f"RUN='{sys.executable} -m docmind_backup'", *lines])
    return subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)


def test_a_file_that_cannot_be_read_leaves_the_rest_checked_and_is_exit_5(
    verify: Verify, backup: Path, tmp_path: Path
) -> None:
    """Reading at offset 0 of a process's memory is EIO, as on a disk that fails; it looks like a file of 0 bytes."""
    empty, flipped = backup / "data/storage/empty", one(backup, "upload")
    add_file(backup, "data/storage/empty", b"")
    assert verify().code == 0
    command = f"$RUN verify {backup} -C {tmp_path} --dest {backup.parent} --json"

    result = in_private_mounts(f"mount --bind /proc/$$/mem {empty} || exit 99", command)

    if result.returncode == 99:
        pytest.skip(f"nothing can be mounted over a file here: {result.stderr}")
    (found,) = json.loads(result.stdout)
    assert result.returncode == 5, result.stderr
    assert (found["verdict"], found["remembered"]) == ("not fully checked", True)
    (finding,) = found["findings"]
    assert (finding["kind"], finding["path"]) == ("unreadable", "data/storage/empty")
    assert found["files"] >= 10

    flip(backup / flipped, 9)
    worse = in_private_mounts(f"mount --bind /proc/$$/mem {empty} || exit 99", command)
    assert worse.returncode == 4


def add_file(backup: Path, path: str, content: bytes) -> None:
    """One more stored file, as if it had been captured."""
    (backup / path).write_bytes(content)
    entry = FileEntry(path, size=0, sha256="0" * 64, mtime_ns=0, mode=0o644)
    overwrite(backup / "inventory.jsonl", (backup / "inventory.jsonl").read_bytes() + fmt.entry_line(entry))
    reseal(backup)
    rewrite(backup, path, content)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_exit_5(verify: Verify, backup: Path) -> None:
    path = one(backup, "upload")
    (backup / path).chmod(0)

    result = verify()

    assert (result.code, result.findings) == (5, {("unreadable", path)})


def test_on_a_read_only_disk_everything_that_reads_works_and_says_what_it_cannot_keep(
    backup: Path, tmp_path: Path
) -> None:
    root = backup.parent
    here = f"-C {tmp_path} --dest {root}"
    before = contents(root)

    result = in_private_mounts(
        f"mount --bind {root} {root} && mount -o remount,ro,bind {root} || exit 99",
        f"touch {root}/x 2>/dev/null && exit 98",
        f"$RUN verify latest {here}; echo verify: $?",
        f"$RUN verify --all --quick {here}; echo quick: $?",
        f"$RUN list {here}; echo list: $?",
        f"$RUN show latest {here}; echo show: $?",
        f"$RUN prune --dry-run {here}; echo dry: $?",
        f"$RUN restore-plan latest {here}; echo plan: $?",
        f"$RUN create --only logs {here}; echo create: $?",
    )

    if result.returncode == 99:
        pytest.skip(f"nothing can be mounted read-only here: {result.stderr}")
    codes = dict(line.split(": ") for line in result.stdout.splitlines() if re.fullmatch(r"[a-z]+: \d+", line))
    for command in ("verify", "quick", "list", "show", "dry"):
        assert codes[command] == "0", result.stdout + result.stderr
    assert codes["plan"] in ("0", "3")
    assert codes["create"] not in ("0", "3")
    assert "could not be remembered" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(root) == before
