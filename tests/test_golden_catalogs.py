"""Catalogs as each format number was first written: every later version lists, verifies and restores them.

Each holds a complete backup, an incomplete one whose chat database was damaged, and a held one that shares files with
the first: with `.env`, logs, an embedded Qdrant, a link, an empty folder, a sparse file and a name that is not UTF-8.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Cli
from tests.unpacking import unpack

from docmind_backup.core.model import FORMAT

GOLDEN = Path(__file__).parent / "golden" / "catalogs"
ARCHIVES = sorted(GOLDEN.glob("*.tar.xz"))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog, as it was unpacked on another machine."""
    place = tmp_path_factory.mktemp("golden")
    with tarfile.open(request.param) as tar:
        unpack(tar, place, "tar")
    return place / "backups"


def test_every_format_has_its_catalog_and_none_was_ever_written_anew() -> None:
    lines = (line.split("  ") for line in (GOLDEN / "SHA256SUMS").read_text().splitlines())
    sums = {name: digest for digest, name in lines}

    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in ARCHIVES} == sums
    assert set(sums) == {f"format{number}.tar.xz" for number in range(1, FORMAT + 1)}


def test_it_is_listed_with_what_was_known_of_it(cli: Cli, root: Path, tmp_path: Path) -> None:
    listed = cli("list", "-C", tmp_path, "--dest", root, "--json").json()

    assert [(b["sequence"], b["completeness"], b["counts"], b["held"], b["verified"]) for b in listed] == [
        (3, "complete", True, "golden", "intact"),
        (2, "incomplete", False, None, "intact"),
        (1, "complete", True, None, "intact"),
    ]
    assert [o["reason"] for o in listed[1]["omissions"]] == ["damaged"]
    assert listed[0]["own_bytes"] < listed[0]["bytes"] / 5
    for one in listed:
        assert cli("show", one["id"], "-C", tmp_path, "--dest", root).code == 0


def test_it_verifies_and_one_flipped_bit_is_found(cli: Cli, root: Path, tmp_path: Path) -> None:
    assert cli("verify", "--all", "-C", tmp_path, "--dest", root).code == 0
    upload = next(root.glob("backup_*_*/data/uploads/document-01.pdf"))
    raw = upload.read_bytes()
    upload.chmod(0o600)
    try:
        upload.write_bytes(bytes((raw[0] ^ 1,)) + raw[1:])
        assert cli("verify", "--all", "-C", tmp_path, "--dest", root).code == 4
    finally:
        upload.write_bytes(raw)
    assert cli("verify", "--all", "-C", tmp_path, "--dest", root).code == 0


def test_it_comes_back_byte_for_byte_with_modes_and_times(cli: Cli, root: Path, tmp_path: Path) -> None:
    """Held against the inventory as JSON, read here without the code under test."""
    (newest,) = (path for path in root.iterdir() if path.name.startswith("backup_") and _sequence(path) == 3)
    here = ("-C", tmp_path / "nowhere-else", "--dest", root, "--qdrant-path", tmp_path / "nowhere-else" / "qdrant")
    (tmp_path / "nowhere-else").mkdir()

    result = cli("restore", newest.name, "--to", tmp_path / "out", "--include-env", "--yes", *here)

    assert result.code in (0, 3), result.err
    found = [*(tmp_path / "out").rglob("*")]
    lines = [json.loads(line) for line in (newest / "inventory.jsonl").read_bytes().splitlines()]
    assert len(lines) > 30
    wanting = [line["path"] for line in lines if not any(_is(path, line) for path in found if path.name == _name(line))]
    assert wanting == []


def _sequence(backup: Path) -> Any:
    return json.loads((backup / "backup.json").read_bytes())["sequence"]


def _name(line: dict[str, Any]) -> str:
    raw = base64.b64decode(line["path_b64"]) if "path_b64" in line else line["path"].encode()
    return os.fsdecode(raw).rpartition("/")[2]


def _is(path: Path, line: dict[str, Any]) -> bool:
    seen = path.lstat()
    if line["type"] == "link":
        return path.is_symlink() and os.readlink(path) == line["target"]
    right = (oct(stat.S_IMODE(seen.st_mode)), seen.st_mtime_ns) == (oct(int(line["mode"], 8)), line["mtime_ns"])
    if line["type"] == "directory":
        return right and path.is_dir()
    return right and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"]
