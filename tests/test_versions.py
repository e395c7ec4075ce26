"""Versions that meet: what an earlier one saved of a server comes back to one, what a later one wrote is refused.

`tests/golden/server-format1.tar.xz` holds two backups of an environment /srv/docmind with its collections, as the first
version that had format 1 wrote them. Never written again; a new format gets an archive of its own.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from tests.catalogs import backups, entries
from tests.conftest import Cli
from tests.standin import StandIn
from tests.unpacking import unpack

from docmind_backup.core import format as fmt
from docmind_backup.core.model import FileEntry, LinkEntry

ARCHIVES = sorted((Path(__file__).parent / "golden").glob("server-format*.tar.xz"))


def test_every_format_has_an_archive() -> None:
    assert [path.name for path in ARCHIVES] == [f"server-format{number + 1}.tar.xz" for number in range(fmt.FORMAT)]


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unpacked catalog."""
    with tarfile.open(request.param) as archive:
        unpack(archive, tmp_path, "tar")
    return tmp_path / "docmind-backups"


def test_it_is_listed_verified_and_restored_whole(cli: Cli, root: Path, tmp_path: Path, server: StandIn) -> None:
    project, options = tmp_path / "docmind", ["-C", tmp_path / "docmind", "--dest", root]
    project.mkdir()
    (project / ".env").write_text(f"DOCMIND_DATABASE__QDRANT_URL={server.url}\n")

    listed = cli("list", *options, "--json").json()
    assert [(b["completeness"], b["files"], b["points"]["max"]) for b in listed] == [("complete", 44, 32)] * 2
    assert cli("verify", "--all", *options).code == 0
    done = cli("restore", "latest", "--yes", *options)

    assert done.code == 0, done.err
    newest = backups(root)[-1]
    restored = {path for path in project.rglob("*") if ".docmind-restore" not in path.parts}
    for entry in entries(newest).values():
        assert not isinstance(entry, FileEntry) or entry.path.startswith("qdrant/") or holds(restored, entry), entry
        assert not isinstance(entry, LinkEntry) or (project / entry.path).is_symlink()
    assert {name.rpartition("__")[0]: server.count(name) for name in server.collections()} == {
        "docmind_docs": 25,
        "docmind_images": 7,
    }


def holds(paths: set[Path], entry: FileEntry) -> bool:
    """Some restored file of that name has these bytes, mode and time."""
    return any(
        (path.lstat().st_mode & 0o7777, path.lstat().st_mtime_ns) == (entry.mode, entry.mtime_ns)
        and hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
        for path in paths
        if path.name == Path(entry.path).name and path.is_file()
    )


def test_a_next_version_s_backup_is_listed_and_refused_cleanly(cli: Cli, root: Path, tmp_path: Path) -> None:
    """What an older version does with a newer one's catalog: the other way round than above."""
    newest = backups(root)[-1]
    path = newest / fmt.RECORD
    record = json.loads(path.read_bytes())
    path.chmod(0o600)
    del record["record_sha256"]  # of its own kind, which we do not know
    path.write_text(json.dumps({**record, "format": fmt.FORMAT + 1}))
    (tmp_path / "docmind").mkdir()
    options = ["-C", tmp_path / "docmind", "--dest", root]

    assert newest.name in cli("list", *options).out
    assert [b["kind"] for b in cli("list", *options, "--json").json()].count("backup") == 1
    for words in (("show", newest), ("verify", newest), ("restore-plan", newest), ("restore", newest, "--yes")):
        refused = cli(*words, *options)
        assert refused.code == 16, (words, refused.err)
        assert "Traceback" not in refused.err
    assert cli("prune", *options, "--keep-last", "1").code == 0
    assert newest.exists()
    assert not (tmp_path / "docmind" / "data").exists()
