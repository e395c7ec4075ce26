"""Backups that other tools made: verified as far as they allow, by path and by name, and what cannot be proved is said.

The directories are real ones, made by DocMind 2.0.1 and ai-memory 2.0.6; of DocMind's first generation there is none
recorded, so that one is written here as its documents describe it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.catalogs import contents, flip
from tests.conftest import Cli
from tests.environments import build_v1
from tests.snapshots import RECORDINGS, recorded
from tests.test_engines import emptied, segments_changed, without_log

from docmind_backup import foreign
from docmind_backup.core import foreign as core
from docmind_backup.core.foreign import Counts, Foreign, Maker
from docmind_backup.core.model import FileEntry, Kind, Layout, Part
from docmind_backup.foreign import NotUsable

DOCMIND = "backup_20261121_033425_6b8165a35cb0"
AI_MEMORY = "2026-11-21_033158"
V1 = "backup_20260214_030000"


@pytest.fixture(autouse=True)
def room(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = tmp_path_factory.mktemp("room")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def docmind(tmp_path: Path) -> Path:
    """As DocMind 2.0.1 wrote it."""
    with tarfile.open(RECORDINGS / "docmind-v2-backup.tar.xz") as tar:
        tar.extractall(tmp_path / "root", filter="data")
    return tmp_path / "root" / DOCMIND


@pytest.fixture
def ai_memory(tmp_path: Path) -> Path:
    """As ai-memory 2.0.6 wrote it; config/.env and the logs are made up: they were not recorded."""
    folder = tmp_path / "root" / AI_MEMORY
    for name in ("qdrant", "config", "logs"):
        (folder / name).mkdir(parents=True)
    for path in (RECORDINGS / "ai-memory").glob("*.xz"):
        (folder / "qdrant" / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
    shutil.copy(RECORDINGS / "ai-memory/manifest.json", folder)
    shutil.copy(RECORDINGS / "ai-memory/settings.json", folder / "config")
    (folder / "config/.env").write_text("QDRANT_API_KEY=secret\n")
    (folder / "logs/hook.log").write_text("a line\n")
    return folder


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """All of data/storage, raw copies of the databases, a snapshot with its checksum, and a manifest without counts."""
    env = build_v1(tmp_path / "docmind")
    folder = tmp_path / "root" / V1
    shutil.copytree(env.storage, folder / "data/storage")
    shutil.copytree(env.uploads, folder / "data/uploads")
    (folder / "cache").mkdir()
    shutil.copy2(env.cache_db, folder / "cache")
    with sqlite3.connect(folder / "data/docmind.db") as database:
        database.execute("CREATE TABLE message(id INTEGER PRIMARY KEY)")
    database.close()
    (folder / "qdrant/docmind_docs").mkdir(parents=True)
    (folder / "qdrant/docmind_docs/d.snapshot").write_bytes(recorded("text"))
    taken = {
        "collection": "docmind_docs",
        "snapshot_name": "d.snapshot",
        "filename": "qdrant/docmind_docs/d.snapshot",
        "size_bytes": len(recorded("text")),
        "checksum": hashlib.sha256(recorded("text")).hexdigest(),
    }
    manifest = {
        "created_at": "2026-02-14T03:00:00+00:00",
        "app_version": "1.4.0",
        "included": ["cache_db", "snapshots", "uploads", "chat_db", "qdrant_snapshots"],
        "bytes_written": 1,
        "qdrant": {"url": "http://localhost:6333", "collections": [taken]},
        "warnings": [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def verified(cli: Cli, what: Path, *options: object) -> tuple[int, Any]:
    result = cli("verify", what, "-C", what.parent, "--dest", what.parent, "--json", *options)
    assert "Traceback" not in result.err
    (found,) = result.json()
    return result.code, found


def findings(found: Any) -> set[tuple[str, str]]:
    return {(one["kind"], one["path"]) for one in found["findings"]}


def unproved(found: Any) -> set[str]:
    return {one["what"] for one in found["unproved"]}


def looked(directory: Path) -> Foreign:
    found = foreign.look(directory)
    assert found
    return found


def edit(backup: Path, change: Callable[[Any], object]) -> None:
    manifest = json.loads((backup / "manifest.json").read_bytes())
    change(manifest)
    (backup / "manifest.json").write_text(json.dumps(manifest))


# -- whole ---------------------------------------------------------------------------------------


def test_a_whole_backup_of_docminds_is_whole_as_far_as_it_says(cli: Cli, docmind: Path) -> None:
    before = contents(docmind.parent)

    code, found = verified(cli, docmind)

    assert (code, found["verdict"], found["findings"], found["made_by"]) == (
        5,
        "not fully checked",
        [],
        "DocMind 2.0.1",
    )
    assert unproved(found) == {".env", "logs", "data/analytics/analytics.duckdb"}
    said = cli("verify", DOCMIND, "-C", docmind.parent, "--dest", docmind.parent)
    assert said.out.startswith(f"whole as far as it says: {DOCMIND} (made by DocMind 2.0.1): 24 files")
    assert "cannot be proved: logs: DocMind wrote down no sum of its 2 files" in said.out
    assert contents(docmind.parent) == before


def test_one_whose_every_byte_has_a_sum_is_intact(cli: Cli, docmind: Path) -> None:
    for name in ("logs", "data/analytics"):
        shutil.rmtree(docmind / name)
    (docmind / ".env").unlink()

    code, found = verified(cli, docmind)

    assert (code, found["verdict"]) == (0, "intact")


def test_its_databases_and_collections_are_opened_too(cli: Cli, docmind: Path) -> None:
    code, found = verified(cli, docmind, "--deep")

    assert code == 5
    assert {one["points"] for one in found["deep"]["collections"]} == {25, 1}
    rows = {one["path"]: one["rows"] for one in found["deep"]["databases"]}
    assert rows["cache/docmind.duckdb"] == {"keyvalue": 2000}
    assert "are those that index snapshot" in found["deep"]["remarks"][0]
    assert unproved(found) == {".env", "logs"}, "what an engine read to its end wants for no sum"


def test_ai_memorys_is_opened_and_its_points_are_counted(cli: Cli, ai_memory: Path) -> None:
    code, found = verified(cli, ai_memory)
    assert (code, found["findings"], found["made_by"]) == (5, [], "ai-memory 2.0.6")
    assert {f"qdrant/{n}.snapshot" for n in ("discussions", "conventions")} < unproved(found)

    code, found = verified(cli, ai_memory, "--deep")

    assert (code, found["findings"]) == (5, [])
    assert {one["name"]: one["points"] for one in found["deep"]["collections"]} == {
        "discussions": 42,
        "conventions": 15,
        "code-patterns": 8,
        "jira-data": 3,
    }
    assert unproved(found) == {"config", "logs"}


def test_it_is_found_by_its_name_in_the_root(cli: Cli, ai_memory: Path) -> None:
    result = cli("verify", AI_MEMORY, "--quick", "--json", "-C", ai_memory.parent, "--dest", ai_memory.parent)

    assert (result.code, result.json()[0]["directory"]) == (0, str(ai_memory))


def test_a_v1_backup_says_that_hardly_anything_can_be_proved(cli: Cli, v1: Path) -> None:
    code, found = verified(cli, v1, "--deep")

    assert (code, found["findings"]) == (5, [])
    assert unproved(found) == {"data/storage", "data/uploads", "qdrant/docmind_docs/d.snapshot"}
    assert "25 points: nobody wrote down how many" in {one["why"] for one in found["unproved"]}
    assert "the uploads are those" in found["deep"]["remarks"][0], "sizes and times, which the copy kept"
    assert {one["path"] for one in found["deep"]["databases"]} == {"cache/docmind.duckdb", "data/docmind.db"}


def test_no_secret_of_theirs_is_shown(cli: Cli, ai_memory: Path) -> None:
    result = cli("verify", ai_memory, "--deep", "-C", ai_memory.parent)

    assert "secret" not in result.out + result.err


# -- damaged -------------------------------------------------------------------------------------

ANYTHING = {
    "an upload": "data/uploads/doc-0000.pdf",
    "an artifact": "data/artifacts/*.webp",
    "the cache": "cache/docmind.duckdb",
    "the chats": "data/chat.db",
    "CURRENT": "data/storage/CURRENT",
    "the deployment id": "data/.deployment-id",
    "an index file": "data/storage/*/graph/docstore.json",
    "a collection": "qdrant/*docs*/*.snapshot",
}


@pytest.mark.parametrize("kind", ANYTHING)
def test_a_flipped_bit_and_a_missing_file_are_found(kind: str, cli: Cli, docmind: Path) -> None:
    path = next(docmind.glob(ANYTHING[kind]))
    name = str(path.relative_to(docmind))
    flip(path, path.stat().st_size // 2)
    code, found = verified(cli, docmind)
    assert (code, findings(found)) == (4, {("altered", name)})

    path.unlink()
    code, found = verified(cli, docmind, "--quick")
    assert (code, findings(found)) == (4, {("missing", name)})


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.meta.json", "manifest.checksum"])
def test_a_changed_manifest_of_the_index_snapshot_is_found(name: str, cli: Cli, docmind: Path) -> None:
    path = next(docmind.glob(f"data/storage/*/{name}"))
    text = path.read_text()
    path.write_text(text.replace("0", "1", 1))

    code, found = verified(cli, docmind)

    assert code == 4
    assert any(kind == "altered" for kind, _ in findings(found))


@pytest.mark.parametrize(
    "name",
    [
        "data/uploads/more.pdf",
        "data/artifacts/more.webp",
        "data/storage/20261121T033423-7fd0a6b3/graph/more.json",
        "cache/docmind.duckdb.wal",
        "data/chat.db-wal",
        "qdrant/more.snapshot",
        "unknown",
        "data/unknown.bin",
    ],
)
def test_what_its_manifest_does_not_know_is_unexpected(name: str, cli: Cli, docmind: Path) -> None:
    (docmind / name).write_bytes(b"more")

    code, found = verified(cli, docmind)

    assert (code, findings(found)) == (4, {("unexpected", name)})


def test_damage_that_has_no_sum_is_found_by_the_engine(cli: Cli, docmind: Path) -> None:
    path = docmind / "data/analytics/analytics.duckdb"
    path.write_bytes(b"\0" * path.stat().st_size)
    assert verified(cli, docmind)[0] == 5

    code, found = verified(cli, docmind, "--deep")

    assert (code, findings(found)) == (4, {("altered", "data/analytics/analytics.duckdb")})


def test_a_snapshot_of_ai_memorys_without_its_points_is_found(cli: Cli, ai_memory: Path) -> None:
    path = ai_memory / "qdrant/discussions.snapshot"
    path.write_bytes(without_log(segments_changed(path.read_bytes(), emptied("id_tracker.mappings"))))
    size = path.stat().st_size
    edit(ai_memory, lambda manifest: manifest["collections"]["discussions"].update(size_bytes=size))

    code, found = verified(cli, ai_memory, "--deep")

    assert (code, findings(found)) == (4, {("altered", "qdrant/discussions.snapshot")})
    assert found["findings"][0]["what"] == "it has 0 points, its manifest says 42"


def test_a_few_points_more_or_less_than_an_estimate_are_no_damage(cli: Cli, ai_memory: Path) -> None:
    edit(ai_memory, lambda manifest: manifest["collections"]["discussions"].update(records=44))

    code, found = verified(cli, ai_memory, "--deep")

    assert (code, found["findings"]) == (5, [])
    assert "44, which is Qdrant's estimate" in str(found["unproved"])


def test_a_size_that_its_manifest_says_is_held_against_the_file(cli: Cli, ai_memory: Path) -> None:
    path = ai_memory / "qdrant/jira-data.snapshot"
    path.write_bytes(path.read_bytes()[:-512])

    code, found = verified(cli, ai_memory, "--quick")

    assert (code, findings(found)) == (4, {("altered", "qdrant/jira-data.snapshot")})


HOSTILE: dict[str, Callable[[Any], object]] = {
    "an upload outside": lambda m: m["uploads"]["files"][0].update(path="../../../etc/passwd"),
    "an absolute snapshot": lambda m: m["qdrant"]["collections"][0].update(filename="/etc/passwd"),
    "a database outside": lambda m: m["databases"]["chat_db"].update(path="../chat.db"),
    "a size that is none": lambda m: m["databases"]["chat_db"].update(size_bytes="many"),
    "lists that are none": lambda m: m.update(uploads=[1, 2]),
    "a time that is none": lambda m: m.update(created_at="yesterday"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=list(HOSTILE))
def test_a_manifest_that_cannot_be_meant_is_damage_and_no_traceback(
    change: Callable[[Any], object], cli: Cli, docmind: Path
) -> None:
    edit(docmind, change)

    code, found = verified(cli, docmind)

    assert (code, findings(found)) == (4, {("altered", "manifest.json")})


@pytest.mark.parametrize("text", [b"{", b"[" * 200_000, b"", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_is_damage(text: bytes, docmind: Path) -> None:
    (docmind / "manifest.json").write_bytes(text)

    with pytest.raises(NotUsable):
        foreign.look(docmind)


def test_a_link_in_place_of_a_file_is_not_followed(cli: Cli, docmind: Path) -> None:
    path = docmind / "data/uploads/doc-0000.pdf"
    shutil.move(path, docmind.parent / "elsewhere.pdf")
    path.symlink_to(docmind.parent / "elsewhere.pdf")

    code, found = verified(cli, docmind)

    assert code == 4
    assert "data/uploads/doc-0000.pdf" in {name for _, name in findings(found)}


def test_an_index_snapshot_that_is_a_link_or_gone_is_found(cli: Cli, docmind: Path) -> None:
    path = docmind / "data/storage/20261121T033423-7fd0a6b3"
    shutil.move(path, docmind.parent / "elsewhere")
    assert verified(cli, docmind)[0] == 4

    path.symlink_to(docmind.parent / "elsewhere")
    code, found = verified(cli, docmind)
    assert (code, findings(found)) == (4, {("altered", str(path.relative_to(docmind)))})


# -- nobody's, and ours --------------------------------------------------------------------------


def test_a_folder_of_nobody_known_cannot_be_checked(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for text in (None, "{}", "not json", '{"files": []}'):
        if text is not None:
            (folder / "manifest.json").write_text(text)
        result = cli("verify", folder, "-C", tmp_path)
        assert result.code == 5
        assert "was not made by this tool" in result.err


def test_verify_all_looks_at_ours_alone_and_list_names_the_others(cli: Cli, docmind: Path) -> None:
    where = ("-C", docmind.parent, "--dest", docmind.parent)

    assert cli("verify", "--all", *where).code == 10
    assert cli("show", DOCMIND, *where).code == 10
    assert f"{DOCMIND}: made by DocMind itself" in cli("list", *where).out


# -- in our words, as a restore reads them --------------------------------------------------------


def test_docminds_backup_in_our_words(docmind: Path) -> None:
    found = looked(docmind)
    made = found.record

    assert (found.maker, found.counts, made.layout, made.complete) == (Maker.DOCMIND, Counts.EXACT, Layout.V2, True)
    assert (made.id, made.tool_version) == (DOCMIND, "DocMind 2.0.1")
    assert made.scope.deployment_id == "cd613e30-d8f1-4adf-91b7-584a2265b1f5"
    assert made.scope.collections == {"role:text", "role:image"}
    assert set(made.included) == set(Part)
    sources = {source.stored: (source.part, source.kind, source.totals.files) for source in made.sources}
    assert sources == {
        "cache/docmind.duckdb": (Part.CACHE, Kind.DUCKDB, 1),
        "data/chat.db": (Part.CHAT, Kind.SQLITE, 1),
        "data/storage": (Part.STORAGE, Kind.TREE, 11),
        "data/.deployment-id": (Part.IDENTITY, Kind.FILE, 1),
        "data/artifacts": (Part.ARTIFACTS, Kind.TREE, 2),
        "data/uploads": (Part.UPLOADS, Kind.TREE, 2),
        "data/analytics/analytics.duckdb": (Part.ANALYTICS, Kind.DUCKDB, 1),
        "logs": (Part.LOGS, Kind.TREE, 2),
        ".env": (Part.ENV, Kind.FILE, 1),
    }
    assert made.totals.files == 24
    active = next(one for one in made.index_snapshots if one["active"])
    assert (active["name"], active["collections_captured"]) == ("20261121T033423-7fd0a6b3", True)


def test_its_collections_in_our_words(docmind: Path) -> None:
    qdrant = looked(docmind).record.qdrant
    assert qdrant
    text, image = qdrant.collections

    assert (qdrant.version, text.role, image.role) == ("1.18.3", "text", "image")
    assert (text.points_min, text.points_max, image.points_max) == (25, 25, 1)
    assert (docmind / text.path).stat().st_size == text.size
    assert text.state.metadata["docmind_owner"] == "text"
    assert set(text.state.vectors) == {"text-dense"}
    assert (text.state.sharding, text.state.shards) == ("auto", 1)


def test_the_entries_of_a_source_have_sums_sizes_and_times(docmind: Path) -> None:
    uploads = [entry for entry in looked(docmind).below("data/uploads") if isinstance(entry, FileEntry)]

    assert [entry.path for entry in uploads] == ["data/uploads/doc-0000.pdf", "data/uploads/doc-0001.pdf"]
    for entry in uploads:
        stored = docmind / entry.path
        assert (entry.size, entry.mtime_ns) == (stored.stat().st_size, stored.stat().st_mtime_ns)
        assert entry.sha256 == hashlib.sha256(stored.read_bytes()).hexdigest()
    (env,) = looked(docmind).below(".env")
    assert isinstance(env, FileEntry)
    assert env.sha256 == ""


def test_ai_memorys_backup_in_our_words(ai_memory: Path) -> None:
    found = looked(ai_memory)
    made = found.record

    assert (found.maker, found.counts) == (Maker.AI_MEMORY, Counts.ESTIMATE)
    assert {source.stored: source.part for source in made.sources} == {"config": Part.ENV, "logs": Part.LOGS}
    assert made.qdrant
    assert {taken.name: taken.points_max for taken in made.qdrant.collections}["discussions"] == 42
    assert {taken.state.vectors["size"] for taken in made.qdrant.collections} == {32}


def test_a_v1_backup_in_our_words(v1: Path) -> None:
    found = looked(v1)
    made = found.record

    assert (made.layout, found.counts, made.id) == (Layout.V1, Counts.NONE, V1)
    assert {(source.part, source.stored) for source in made.sources} == {
        (Part.CACHE, "cache/docmind.duckdb"),
        (Part.CHAT, "data/docmind.db"),
        (Part.STORAGE, "data/storage"),
        (Part.UPLOADS, "data/uploads"),
    }
    assert [one["name"] for one in made.index_snapshots if one["active"]] == ["20260201T000000-bbbbbbbb"]


def test_an_incomplete_one_says_what_it_lacks(docmind: Path) -> None:
    def lessen(manifest: Any) -> None:
        manifest.update(complete=False, warnings=["uploads are not there"])
        manifest["included"].remove("uploads")

    edit(docmind, lessen)

    assert [(o.part, o.reason) for o in looked(docmind).record.omissions] == [(Part.UPLOADS, "missing")]


def test_our_own_backups_are_nobody_elses(tmp_path: Path) -> None:
    ours = {"created_at": "2026-01-01T00:00:00+00:00", "included": [], "bytes_written": 0}
    assert core.maker_of(ours) is Maker.DOCMIND
    assert core.maker_of({**ours, "backup": {"tool": "docmind-backup"}}) is None
    assert core.maker_of([]) is None
    assert foreign.look(tmp_path) is None
    assert duckdb.__version__
