"""The sample is a DocMind environment: its stores open, its hashes hold, a seed makes the same again."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest
from qdrant_client import QdrantClient
from tests.environments import (
    IMAGE_POINTS,
    TEXT_POINTS,
    DocMindV2,
    build_v1,
    build_v2,
    corpus_hash_v1,
    crash,
    holding_duckdb,
    live,
    snapshot_of_sources,
)
from tests.standin import StandIn

from docmind_backup.sample import SampleEnvironment, build_sample, leaks_forgiven, write_index_snapshot


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleEnvironment:
    return build_sample(tmp_path_factory.mktemp("sample") / "docmind")


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def index_snapshots(data: Path) -> list[Path]:
    return sorted(path for path in (data / "storage").iterdir() if path.is_dir())


# -- its index snapshots -------------------------------------------------------------------------


def index_problems(root: Path, uploads: dict[str, bytes]) -> list[str]:
    """The formulas of DocMind's layout, written out from the document."""
    lines = (root / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    meta, checksum = read_json(root / "manifest.meta.json"), read_json(root / "manifest.checksum")
    config = json.dumps(meta["activation_config"], sort_keys=True, separators=(",", ":"))
    exports = [entry["sha256"] for entry in entries if entry["path"].endswith(".jsonl")]
    table = {
        "name": re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{8}", root.name),
        "entries": entries == expected_entries(root),
        "compact": lines == [json.dumps(entry, separators=(",", ":")) for entry in entries],
        "checksum": checksum["manifest_sha256"] == expected_manifest_sha256(entries, meta),
        "corpus": meta["corpus_hash"] == expected_corpus_hash(uploads),
        "config": meta["config_hash"] == meta["activation_config_hash"] == sha256(config.encode()),
        "exports": [export["sha256"] for export in meta["graph_exports"]] == exports,
        "complete": meta["complete"] is True,
        "schema": meta["schema_version"] == checksum["schema_version"] == "2.0",
    }
    return [what for what, holds in table.items() if not holds]


def expected_entries(root: Path) -> list[dict[str, Any]]:
    kinds = {".json": "application/json", ".jsonl": "application/x-ndjson"}
    return [
        {
            "path": f"graph/{path.name}",
            "sha256": sha256(path.read_bytes()),
            "size_bytes": path.stat().st_size,
            "content_type": kinds[path.suffix],
        }
        for path in sorted((root / "graph").iterdir())
    ]


def expected_manifest_sha256(entries: list[Any], meta: Any) -> str:
    lines = [json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n" for entry in entries]
    return sha256(("".join(lines) + json.dumps(meta, sort_keys=True, ensure_ascii=False)).encode())


def expected_corpus_hash(uploads: dict[str, bytes]) -> str:
    pairs = [[name, sha256(content)] for name, content in sorted(uploads.items())]
    return sha256("".join(json.dumps(p, separators=(",", ":"), ensure_ascii=False) for p in pairs).encode())


def test_the_active_index_snapshot_is_what_its_manifests_say(sample: SampleEnvironment) -> None:
    root = sample.data_dir / "storage" / sample.index_snapshot
    uploads = {path.name: path.read_bytes() for path in (sample.data_dir / "uploads").iterdir()}
    assert index_problems(root, uploads) == []


def test_the_older_index_snapshot_was_made_before_the_last_upload(sample: SampleEnvironment) -> None:
    older, active = index_snapshots(sample.data_dir)
    uploads = {path.name: path.read_bytes() for path in (sample.data_dir / "uploads").iterdir()}
    del uploads[max(uploads)]
    assert active.name == sample.index_snapshot
    assert index_problems(older, uploads) == []


def test_current_names_the_active_one(sample: SampleEnvironment) -> None:
    current = sample.data_dir / "storage" / "CURRENT"
    assert current.read_bytes() == f"{sample.index_snapshot}\n".encode()


def test_another_index_snapshot_can_be_added(tmp_path: Path) -> None:
    uploads, name = tmp_path / "uploads", "20260801T000000-deadbeef"
    content = {"a-b/x.pdf": b"1", "a/y.pdf": b"2", "über.pdf": b"3"}
    for path, data in content.items():
        (uploads / path).parent.mkdir(parents=True, exist_ok=True)
        (uploads / path).write_bytes(data)
    index = write_index_snapshot(tmp_path, name, uploads, deployment_id="d", workspace="e" * 32)
    assert index_problems(tmp_path / name, content) == []
    assert (index.text_collection, index.image_collection) == (
        f"docmind_docs__{'e' * 32}",
        f"docmind_images__{'e' * 32}",
    )


def test_an_index_snapshot_of_nothing_has_the_hash_of_nothing(tmp_path: Path) -> None:
    index = write_index_snapshot(
        tmp_path, "20260801T000000-deadbeef", tmp_path / "none", deployment_id="d", workspace="e" * 32
    )
    assert index.meta["corpus_hash"] == sha256(b"")


# -- its stores ----------------------------------------------------------------------------------


def test_the_deployment_id_is_canonical_private_and_the_collections_own(sample: SampleEnvironment) -> None:
    path = sample.data_dir / ".deployment-id"
    assert path.read_bytes() == f"{sample.deployment_id}\n".encode()
    assert str(UUID(sample.deployment_id)) == sample.deployment_id
    assert UUID(sample.deployment_id).version == 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    meta = read_json(sample.data_dir / "storage" / sample.index_snapshot / "manifest.meta.json")
    assert {m["docmind_deployment_id"] for m in meta["collection_metadata"].values()} == {sample.deployment_id}


def test_artifacts_are_named_by_their_content(sample: SampleEnvironment) -> None:
    artifacts = list((sample.data_dir / "artifacts").iterdir())
    assert len(artifacts) == 24
    assert all(path.name == f"{sha256(path.read_bytes())}.webp" for path in artifacts)


def test_the_cache_opens_in_duckdb(sample: SampleEnvironment) -> None:
    path = sample.project / "cache" / "ingestion" / "docmind.duckdb"
    with duckdb.connect(str(path), read_only=True) as db:
        assert db.sql("SELECT count(*), min(collection) FROM keyvalue").fetchone() == (
            12,
            "docmind_ingestion",
        )
        assert db.sql("SELECT index_name FROM duckdb_indexes()").fetchall() == [("collection_idx",)]
        assert db.sql("SELECT constraint_column_names FROM duckdb_constraints()").fetchone() == (["key", "collection"],)
    assert path.stat().st_size < 100_000


def test_the_chats_are_sqlite_in_wal_mode_closed_cleanly(sample: SampleEnvironment) -> None:
    path = sample.data_dir / "chat.db"
    assert sorted(path.parent.glob("chat.db*")) == [path]
    assert path.read_bytes()[18:20] == b"\x02\x02", "the header says WAL"
    with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*), min(length(thread_id)) FROM chat_session").fetchone() == (5, 72)


def test_qdrant_holds_both_collections_with_their_metadata(sample: SampleEnvironment) -> None:
    meta = read_json(sample.data_dir / "storage" / sample.index_snapshot / "manifest.meta.json")
    with leaks_forgiven(), closing(QdrantClient(path=str(sample.qdrant_path))) as client:
        for role, name, count in (
            ("text", sample.text_collection, 24),
            ("image", sample.image_collection, 12),
        ):
            assert client.count(name).count == count
            assert client.get_collection(name).config.metadata == meta["collection_metadata"][role]
        points, _ = client.scroll(sample.image_collection, limit=100, with_payload=True)
    for payload in (point.payload or {} for point in points):
        for kind in ("image", "thumbnail"):
            name = payload[f"{kind}_artifact_id"] + payload[f"{kind}_artifact_suffix"]
            assert (sample.data_dir / "artifacts" / name).is_file()


def test_uploads_are_readable_documents(sample: SampleEnvironment) -> None:
    for path in (sample.data_dir / "uploads").iterdir():
        content = path.read_bytes()
        start = int(content.split(b"startxref\n")[1].split()[0])
        assert content.startswith(b"%PDF-1.4")
        assert content[start:].startswith(b"xref\n0 7\n")
        assert 10_000 <= len(content) <= 200_000


def test_it_is_small(sample: SampleEnvironment) -> None:
    total = sum(path.stat().st_size for path in sample.project.rglob("*") if path.is_file())
    assert 1_500_000 < total < 4_000_000


def test_the_settings_do_not_switch_backups_on(sample: SampleEnvironment) -> None:
    settings = dict(line.split("=", 1) for line in (sample.project / ".env").read_text(encoding="utf-8").splitlines())
    assert len(settings["DOCMIND_HASHING__HMAC_SECRET"]) >= 32
    assert "DOCMIND_BACKUP_ENABLED" not in settings


# -- the same again ------------------------------------------------------------------------------


def look(project: Path) -> dict[str, tuple[str, int]]:
    """What a seed determines: content of all but the databases, times of uploads and artifacts."""
    found = {}
    for path in sorted(project.rglob("*")):
        if path.is_file() and path.name != "chat.db":
            timed = path.parent.name in {"uploads", "artifacts"}
            found[path.relative_to(project).as_posix()] = (
                sha256(path.read_bytes()),
                path.stat().st_mtime_ns if timed else 0,
            )
    return found


def test_a_seed_makes_the_same_sample_again(tmp_path: Path) -> None:
    first = build_sample(tmp_path / "first", embedded=False)
    second = build_sample(tmp_path / "second", embedded=False)
    assert look(first.project) == look(second.project)
    assert (first.index_snapshot, first.text_collection) == (second.index_snapshot, second.text_collection)


def test_another_seed_makes_another_sample(tmp_path: Path) -> None:
    first = build_sample(tmp_path / "first", embedded=False, seed=1)
    second = build_sample(tmp_path / "second", embedded=False, seed=2)
    assert first.deployment_id != second.deployment_id
    assert first.index_snapshot != second.index_snapshot
    assert not {p.name for p in (first.data_dir / "artifacts").iterdir()} & {
        p.name for p in (second.data_dir / "artifacts").iterdir()
    }


@pytest.mark.parametrize("name", [".env", "data", "cache", "logs"])
def test_it_is_never_made_over_an_environment(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match="only made where no environment is"):
        build_sample(tmp_path, embedded=False)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_without_qdrant_its_client_is_not_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from docmind_backup.sample import build_sample;"
        f"build_sample(Path({str(tmp_path / 'p')!r}), embedded=False, documents=1);"
        "assert not {'qdrant_client', 'duckdb', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# -- the environments of the other tests ---------------------------------------------------------


@pytest.fixture
def v2(tmp_path: Path) -> DocMindV2:
    return build_v2(tmp_path / "docmind")


def test_v2_on_a_server_holds_what_its_index_snapshot_says(tmp_path: Path) -> None:
    with StandIn() as server:
        env = build_v2(tmp_path / "docmind", server)
        client = QdrantClient(url=server.url, check_compatibility=False)
        try:
            for name, role, count in (
                (env.text_collection, "text", TEXT_POINTS),
                (env.image_collection, "image", IMAGE_POINTS),
            ):
                assert client.count(name).count == count
                assert client.get_collection(name).config.metadata == env.collection_metadata[role]
        finally:
            client.close()
    assert f"DOCMIND_DATABASE__QDRANT_URL={server.url}\n" in env.env_file.read_text(encoding="utf-8")


def test_v2_in_flight_holds_journals_that_name_the_active_collections(tmp_path: Path) -> None:
    env = build_v2(tmp_path / "docmind", in_flight=True)
    journals = [read_json(path) for path in sorted(env.data_dir.glob(".*/*/transaction.json"))]
    assert [journal["operation"] for journal in journals] == ["quarantine", "promote"]
    assert {journal["collections"]["text"] for journal in journals} == {env.text_collection}
    pending = env.data_dir / ".pending-uploads" / journals[1]["moves"][0]["pending"]
    assert sha256(pending.read_bytes()) == journals[1]["moves"][0]["sha256"]


def test_v2_leaves_out_what_is_not_asked_for(tmp_path: Path) -> None:
    env = build_v2(tmp_path / "docmind", analytics=False, logs=False)
    assert not env.analytics_db.exists()
    assert not (env.project / "logs").exists()


def test_v1_has_exact_names_and_hashes_times(tmp_path: Path) -> None:
    env = build_v1(tmp_path / "docmind")
    meta = read_json(env.storage / env.index_snapshot / "manifest.meta.json")
    assert meta["corpus_hash"] == corpus_hash_v1(env.uploads)
    assert "collections" not in meta
    (env.uploads / "document-00.pdf").touch()
    assert meta["corpus_hash"] != corpus_hash_v1(env.uploads)


def test_v1_on_a_server_has_collections_without_metadata(tmp_path: Path) -> None:
    with StandIn() as server:
        env = build_v1(tmp_path / "docmind", server, current=False)
        client = QdrantClient(url=server.url, check_compatibility=False)
        try:
            assert client.count("docmind_docs").count == TEXT_POINTS
            assert not client.get_collection("docmind_images").config.metadata
        finally:
            client.close()
    assert not (env.storage / "CURRENT").exists()


def test_while_it_lives_rows_of_the_chats_are_only_in_the_log(v2: DocMindV2) -> None:
    with live(v2) as writer:
        total = writer.write(2)
        with closing(sqlite3.connect(f"{v2.chat_db.as_uri()}?immutable=1", uri=True)) as db:
            in_main = db.execute("SELECT count(*) FROM chat_session").fetchone()
        assert v2.chat_db.with_name("chat.db-wal").stat().st_size > 0
        assert v2.chat_db.with_name("chat.db-shm").exists()
    assert (total, in_main) == (v2.chat_sessions + 5, (v2.chat_sessions,))
    assert not v2.chat_db.with_name("chat.db-wal").exists(), "closed well, it leaves nothing behind"


def test_while_the_cache_is_held_nobody_else_can_open_it(v2: DocMindV2) -> None:
    before = snapshot_of_sources(v2)
    with holding_duckdb(v2), pytest.raises(duckdb.IOException, match="lock"):
        duckdb.connect(str(v2.cache_db), read_only=True)
    assert snapshot_of_sources(v2) == before


def test_a_crash_leaves_rows_that_are_only_in_the_logs(v2: DocMindV2, tmp_path: Path) -> None:
    before = v2.chat_db.read_bytes(), v2.cache_db.read_bytes()
    crashed = crash(v2)
    assert before == (v2.chat_db.read_bytes(), v2.cache_db.read_bytes())
    assert (crashed.chat_sessions, crashed.cache_rows) == (v2.chat_sessions + 3, v2.cache_rows + 3)
    with closing(sqlite3.connect(v2.chat_db)) as chats:
        assert chats.execute("SELECT count(*) FROM chat_session").fetchone() == (crashed.chat_sessions,)
    with duckdb.connect(str(v2.cache_db), read_only=True) as cache:
        assert cache.sql("SELECT count(*) FROM keyvalue").fetchone() == (crashed.cache_rows,)


def test_two_looks_at_sources_differ_by_what_was_touched(v2: DocMindV2) -> None:
    before = snapshot_of_sources(v2)
    upload = v2.uploads / "document-00.pdf"
    upload.read_bytes()
    v2.backups.mkdir()
    (v2.backups / "backup_20260101_000000").mkdir()
    v2.chat_db.with_name("chat.db-shm").touch()
    assert snapshot_of_sources(v2) == before
    upload.touch()
    (v2.artifacts / "new").symlink_to("nowhere")
    after = snapshot_of_sources(v2)
    assert {name for name in after if after[name] != before.get(name)} == {
        "data/uploads/document-00.pdf",
        "data/artifacts",
        "data/artifacts/new",
    }
