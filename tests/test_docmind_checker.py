"""The restated checker takes what DocMind itself made, and refuses it once any one condition is broken."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.docmind_checker import CONDITIONS, problems
from tests.unpacking import unpack

RECORDED = Path(__file__).parent / "data" / "recordings" / "docmind-v2-backup.tar.xz"

Change = Callable[[Path], object]


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backup that DocMind 2.0.1 made of a real environment."""
    folder = tmp_path_factory.mktemp("recorded")
    with tarfile.open(RECORDED) as archive:
        unpack(archive, folder)
    return next(folder.iterdir())


@pytest.fixture
def backup(unpacked: Path, tmp_path: Path) -> Path:
    return shutil.copytree(unpacked, tmp_path / unpacked.name, symlinks=True)


# -- ways to change a backup ---------------------------------------------------------------------


def manifest(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change what manifest.json says."""

    def apply(backup: Path) -> None:
        _edit(backup / "manifest.json", change)

    return apply


def index_meta(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change what the active index snapshot says of itself."""

    def apply(backup: Path) -> None:
        _edit(_index(backup) / "manifest.meta.json", change)

    return apply


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def _index(backup: Path) -> Path:
    return next(path for path in (backup / "data/storage").iterdir() if path.is_dir())


def first(backup: Path, pattern: str) -> Path:
    """The first file, by name, that matches."""
    return sorted(path for path in backup.glob(pattern) if path.is_file())[0]


def without(pattern: str) -> Change:
    return lambda backup: first(backup, pattern).unlink()


def one_byte_off(pattern: str) -> Change:
    """Same size, other content."""

    def apply(backup: Path) -> None:
        path = first(backup, pattern)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return apply


def longer(pattern: str) -> Change:
    return lambda backup: first(backup, pattern).write_bytes(first(backup, pattern).read_bytes() + b"\n")


def file(name: str, content: str = "x\n") -> Change:
    def apply(backup: Path) -> None:
        path = backup / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    return apply


def link(name: str, target: str) -> Change:
    return lambda backup: (backup / name).symlink_to(target)


def as_link(pattern: str) -> Change:
    """The file lies elsewhere, a link to it in its place: the content is right, it is not in the backup."""

    def apply(backup: Path) -> None:
        path = first(backup, pattern)
        elsewhere = backup.parent / path.name
        path.rename(elsewhere)
        path.symlink_to(elsewhere)

    return apply


def renamed(name: str) -> Change:
    return lambda backup: backup.rename(backup.with_name(name))


def set_in(*keys: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return change


def drop(*keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


def add(*keys: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys:
            data = data[key]
        data.append(value)

    return change


def empty_storage(backup: Path) -> None:
    shutil.rmtree(backup / "data/storage")


def blank_line(backup: Path) -> None:
    path = _index(backup) / "manifest.jsonl"
    path.write_bytes(path.read_bytes() + b"\n")


def reordered(backup: Path) -> None:
    path = _index(backup) / "manifest.jsonl"
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))


def upload_changed_with_inventory(backup: Path) -> None:
    """The inventory is right again, but it is not the corpus that was indexed."""
    one_byte_off("data/uploads/*")(backup)
    changed = sha256(first(backup, "data/uploads/*").read_bytes()).hexdigest()
    manifest(set_in("uploads", "files", 0, "sha256", to=changed))(backup)


def one_collection_twice(backup: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        collections = data.get("activation", data)["collections"]
        collections["image"] = collections["text"]

    manifest(change)(backup)
    index_meta(change)(backup)


def snapshot_elsewhere(backup: Path) -> None:
    """The file is there and right, but not below the folder of its collection."""
    path = first(backup, "qdrant/*/*")
    path.rename(backup / "qdrant" / path.name)

    def change(data: dict[str, Any]) -> None:
        for record in data["qdrant"]["collections"]:
            if record["snapshot_name"] == path.name:
                record["filename"] = f"qdrant/{path.name}"

    manifest(change)(backup)


def database_outside(backup: Path) -> None:
    """A path that leads out of the backup, to a file of the right content."""
    (backup / "cache/docmind.duckdb").rename(backup.parent / "docmind.duckdb")
    manifest(set_in("databases", "cache_db", "path", to="../docmind.duckdb"))(backup)


OTHER_ID = "6f1d0b9e-7a55-4c86-9a0c-1f0b8a3d2e11"
INDEX = "data/storage/2*"

BROKEN: list[tuple[str, str, Change]] = [
    ("name", "of an incomplete backup", renamed("incomplete-backup_20261121_033425_6b8165a35cb0")),
    ("name", "without a time", renamed("backup_20261121")),
    ("name", "with upper-case digits", renamed("backup_20261121_033425_6B8165A35CB0")),
    ("complete", "false", manifest(set_in("complete", to=False))),
    ("complete", "not a truth value", manifest(set_in("complete", to=1))),
    ("complete", "not said", manifest(drop("complete"))),
    ("complete", "no manifest at all", without("manifest.json")),
    ("complete", "a manifest that is no JSON", file("manifest.json", "{")),
    ("complete", "a manifest that is a list", file("manifest.json", "[]")),
    ("warnings", "one", manifest(add("warnings", value="no Qdrant"))),
    ("warnings", "not said", manifest(drop("warnings"))),
    ("created_at", "not a time", manifest(set_in("created_at", to="yesterday"))),
    ("app_version", "empty", manifest(set_in("app_version", to=""))),
    ("app_version", "a number", manifest(set_in("app_version", to=2))),
    ("app_version", "not said", manifest(drop("app_version"))),
    ("included", "without Qdrant", manifest(lambda data: data["included"].remove("qdrant_snapshots"))),
    ("included", "without chats", manifest(lambda data: data["included"].remove("chat_db"))),
    ("databases", "without the chats", manifest(drop("databases", "chat_db"))),
    ("databases", "a third", manifest(lambda d: d["databases"].update(analytics=d["databases"]["chat_db"]))),
    ("databases", "a fourth key", manifest(set_in("databases", "chat_db", "mtime_ns", to=1))),
    ("databases", "the cache missing", without("cache/*")),
    ("databases", "the cache altered", one_byte_off("cache/*")),
    ("databases", "the chats longer", longer("data/chat.db")),
    ("databases", "the chats a link", as_link("data/chat.db")),
    ("databases", "the cache outside the backup", database_outside),
    ("deployment", "another", file("data/.deployment-id", OTHER_ID + "\n")),
    ("deployment", "upper case", lambda b: file("data/.deployment-id", _identity(b).upper() + "\n")(b)),
    ("deployment", "without its newline", lambda b: file("data/.deployment-id", _identity(b))(b)),
    ("deployment", "missing", without("data/.deployment-id")),
    ("deployment", "a link", as_link("data/.deployment-id")),
    ("deployment", "activation says another", manifest(set_in("activation", "deployment_id", to=OTHER_ID))),
    (
        "deployment",
        "collections say another",
        index_meta(set_in("collection_metadata", "text", "docmind_deployment_id", to=OTHER_ID)),
    ),
    ("uploads", "one missing", without("data/uploads/*")),
    ("uploads", "one altered", one_byte_off("data/uploads/*")),
    ("uploads", "one not listed", file("data/uploads/extra.pdf")),
    ("uploads", "one not listed, in a folder", file("data/uploads/folder/extra.pdf")),
    (
        "uploads",
        "one listed twice",
        manifest(lambda d: d["uploads"]["files"].append(d["uploads"]["files"][0])),
    ),
    ("uploads", "a link beside them", link("data/uploads/link.pdf", "doc-0000.pdf")),
    ("uploads", "a link in place of one", as_link("data/uploads/*")),
    ("uploads", "no list", manifest(drop("uploads"))),
    ("artifacts", "one missing", without("data/artifacts/*")),
    ("artifacts", "one altered", one_byte_off("data/artifacts/*")),
    ("artifacts", "one not listed", file("data/artifacts/extra.webp")),
    ("artifacts", "a link beside them", link("data/artifacts/link.webp", "nowhere")),
    ("artifacts", "no list", manifest(drop("artifacts"))),
    ("current", "names another", file("data/storage/CURRENT", "20260101T000000-deadbeef\n")),
    ("current", "missing", without("data/storage/CURRENT")),
    ("current", "nothing in storage", empty_storage),
    ("current", "no index snapshot's name", manifest(set_in("activation", "snapshot", to="../storage"))),
    ("index payload", "one missing", without(f"{INDEX}/graph/docstore.json")),
    ("index payload", "one altered", one_byte_off(f"{INDEX}/graph/docstore.json")),
    ("index payload", "one not listed", lambda b: (_index(b) / "graph/extra.json").write_text("{}")),
    ("index payload", "a link", lambda b: (_index(b) / "graph/link").symlink_to("docstore.json")),
    ("index payload", "a blank line", blank_line),
    ("index payload", "not in order", reordered),
    ("index checksum", "missing", without(f"{INDEX}/manifest.checksum")),
    ("index checksum", "of something else", index_meta(set_in("index_id", to="other"))),
    ("index checksum", "not in order", reordered),
    ("index meta", "not complete", index_meta(set_in("complete", to=False))),
    ("index meta", "of the first generation", index_meta(set_in("schema_version", to="1.0"))),
    ("index meta", "another vector store", index_meta(set_in("vector_store_type", to="chroma"))),
    ("index meta", "another graph store", index_meta(set_in("graph_store_type", to="neo4j"))),
    ("index meta", "no hash of the configuration", index_meta(set_in("config_hash", to=""))),
    ("index meta", "missing", without(f"{INDEX}/manifest.meta.json")),
    ("corpus hash", "an upload changed since", upload_changed_with_inventory),
    ("corpus hash", "another", index_meta(set_in("corpus_hash", to="0" * 64))),
    ("collections", "activation says another", manifest(set_in("activation", "collections", "text", to="x"))),
    ("collections", "activation says one less", manifest(drop("activation", "collections", "image"))),
    ("collections", "the same one twice", one_collection_twice),
    ("qdrant", "one record less", manifest(drop("qdrant", "collections", 0))),
    (
        "qdrant",
        "one record more",
        manifest(lambda d: _records(d).append({**_records(d)[0], "collection": "x"})),
    ),
    ("qdrant", "a snapshot missing", without("qdrant/*/*")),
    ("qdrant", "a snapshot altered", one_byte_off("qdrant/*/*")),
    ("qdrant", "a snapshot cut", lambda b: first(b, "qdrant/*/*").write_bytes(b"")),
    ("qdrant", "a snapshot a link", as_link("qdrant/*/*")),
    ("qdrant", "a snapshot elsewhere", snapshot_elsewhere),
    ("qdrant", "no checksum", manifest(set_in("qdrant", "collections", 0, "checksum", to=None))),
    ("qdrant", "no count", manifest(set_in("qdrant", "collections", 0, "point_count", to=None))),
    ("qdrant", "embedded only", manifest(drop("qdrant"))),
]


def _identity(backup: Path) -> str:
    return (backup / "data/.deployment-id").read_text(encoding="ascii").strip()


def _records(data: dict[str, Any]) -> list[dict[str, Any]]:
    return data["qdrant"]["collections"]


def own_files(backup: Path) -> None:
    for name in ("README.md", "backup.json", "inventory.jsonl", "SHA256SUMS"):
        file(name)(backup)


def second_index_snapshot(backup: Path) -> None:
    shutil.copytree(_index(backup), backup / "data/storage/20260101T000000-deadbeef")


def read_only(backup: Path) -> None:
    for path in backup.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o400)


TOLERATED: list[tuple[str, Change]] = [
    ("files of ours in the root", own_files),
    ("the log of the cache beside it", file("cache/docmind.duckdb.wal")),
    ("uploads not yet ingested", file("data/.pending-uploads/1/waiting.pdf")),
    ("uploads taken out", file("data/.quarantine/1/payload/upload")),
    ("several index snapshots", second_index_snapshot),
    ("files 0400 and folders 0700", read_only),
    ("a key more in the manifest", manifest(set_in("backup", to={"tool": "docmind-backup"}))),
    ("a label more", manifest(add("included", value="qdrant_embedded"))),
    (
        "a key more in a record of Qdrant",
        manifest(set_in("qdrant", "collections", 0, "point_count_min", to=1)),
    ),
    ("a note", manifest(add("maintenance_warnings", value="a link in logs leads out"))),
    ("links in logs", link("logs/latest.log", "docmind.log")),
    ("a link in logs to nowhere", link("logs/old.log", "/nowhere")),
    ("analytics altered", one_byte_off("data/analytics/*")),
    ("a name without the twelve digits", renamed("backup_20261121_033425")),
]


def test_the_backup_that_docmind_made_is_accepted(unpacked: Path) -> None:
    assert problems(unpacked) == []


@pytest.mark.parametrize(
    ("condition", "change"),
    [pytest.param(condition, change, id=f"{condition}: {how}") for condition, how, change in BROKEN],
)
def test_a_backup_with_one_condition_broken_is_refused(condition: str, change: Change, backup: Path) -> None:
    change(backup)
    [changed] = (path for path in backup.parent.iterdir() if path.is_dir())
    assert condition in {problem.partition(": ")[0] for problem in problems(changed)}


@pytest.mark.parametrize(
    "change",
    [pytest.param(change, id=what) for what, change in TOLERATED],
)
def test_what_docmind_tolerates_is_accepted(change: Change, backup: Path) -> None:
    change(backup)
    [changed] = (path for path in backup.parent.iterdir() if path.is_dir())
    assert problems(changed) == []


def test_every_condition_has_been_broken() -> None:
    assert {condition for condition, _, _ in BROKEN} == set(CONDITIONS)


def test_a_link_to_a_backup_is_refused(backup: Path) -> None:
    moved = backup.rename(backup.with_name("elsewhere"))
    backup.symlink_to(moved)
    assert "name: it is a link" in problems(backup)


def test_it_only_reads(backup: Path) -> None:
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in backup.rglob("*")}
    problems(backup)
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in backup.rglob("*")} == before


def test_it_shares_no_code_with_what_it_checks() -> None:
    source = (Path(__file__).parent / "docmind_checker.py").read_text(encoding="utf-8")
    imported = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not any("docmind_backup" in line or "tests" in line for line in imported)
