"""Open one stored file with the engine that wrote it. A program of its own: engines may hang, panic or die on damage.

`python -m docmind_backup.engines TASK FILE FOLDER SECONDS` prints one JSON object: what it found, or `error`. It writes
to copies below FOLDER only; a FILE elsewhere is only read (SQLite: `immutable`; DuckDB: read-only). It ends after
SECONDS whatever happens. docmind_backup.deep starts it and judges.
"""

from __future__ import annotations

import heapq
import json
import resource
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docmind_backup import snapshot_tar
from docmind_backup.core.proof import PointsDigest, point_order

Found = dict[str, Any]
PAGE = 256
"""Points that are read at once."""
WORST = 5
"""Problems that are named."""
EDGE = "qdrant-edge-py"
DUCKDB_DAMAGE = {"IOException", "SerializationException", "InternalException", "FatalException"}


def main(task: str, file: str, folder: str, seconds: str) -> None:
    """Do one task and print what came of it."""
    _guard(int(seconds))
    try:
        found = TASKS[task](Path(file), Path(folder))
    except BaseException as error:  # the engine's panics are no Exceptions
        found = {"error": f"{error}" or type(error).__name__, "damage": _is_damage(error)}
    json.dump(found, sys.stdout)


def _is_damage(error: BaseException) -> bool:
    """Whether it says something of the file; else of the engine or this machine."""
    match error:
        case sqlite3.Error():
            return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        case _ if type(error).__module__.endswith("duckdb"):
            newer = "can only read version" in str(error) or "newer version of DuckDB" in str(error)
            return type(error).__name__ in DUCKDB_DAMAGE and not newer
        case Exception():
            return type(error) in (Exception, ValueError)  # Qdrant's engine raises the bare class
    return True


def _guard(seconds: int) -> None:
    """It ends on its own when nobody is left to end it, leaves no core, and goes first when memory is short."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


# -- collection snapshots ------------------------------------------------------------------------


def _snapshot(file: Path, folder: Path) -> Found:
    """Every shard that is there, with Qdrant's engine: counted, and read to the last vector."""
    collection = folder / "collection"
    snapshot_tar.unpack(file, collection)
    shards = sorted((p for p in collection.iterdir() if p.name.isdecimal()), key=lambda path: int(path.name))
    held = [shard for shard in shards if (shard / "segments").is_dir()]
    for shard in held:
        _restore_segments(shard, folder)
    in_segments = sum(_count_without_log(shard) for shard in held)
    found = {
        "engine": f"{EDGE} {version(EDGE)}",
        "in_segments": in_segments,
        "elsewhere": [shard.name for shard in shards if shard not in held],
    }
    try:
        return {**found, **_read_points(held)}
    except Exception as error:
        raise ValueError(f"{error} (its segments alone hold {in_segments:,} points)") from error


def _restore_segments(shard: Path, folder: Path) -> None:
    """Unpacking an empty archive onto a shard makes the engine restore the segments that lie there."""
    import qdrant_edge as edge

    empty = folder / "empty.tar"
    empty.write_bytes(bytes(10240))
    edge.EdgeShard.unpack_snapshot(str(empty), str(shard))


def _count_without_log(shard: Path) -> int:
    """Points of the segments alone: what the write-ahead log would bring back is damage in them."""
    import qdrant_edge as edge

    log, aside = shard / "wal", shard / "wal.aside"
    if log.is_dir():
        log.rename(aside)
    opened = edge.EdgeShard.load(str(shard))
    count = int(opened.count(edge.CountRequest(exact=True)))
    opened.close()
    if aside.is_dir():
        shutil.rmtree(log, ignore_errors=True)
        aside.rename(log)
    return count


def _read_points(held: list[Path]) -> Found:
    import qdrant_edge as edge

    opened = {path.name: edge.EdgeShard.load(str(path)) for path in held}
    counts = {name: int(shard.count(edge.CountRequest(exact=True))) for name, shard in opened.items()}
    digest, vectors = PointsDigest(), Counter[str]()
    for id_, point in heapq.merge(*map(_points, opened.values()), key=lambda one: point_order(one[0])):
        digest.add(id_, point.payload)
        vectors.update(
            list(point.vector) if isinstance(point.vector, dict) else [""] if point.vector is not None else []
        )
    if digest.points != sum(counts.values()):
        raise ValueError(f"{sum(counts.values()):,} points are counted and {digest.points:,} can be read")
    return {
        "points": sum(counts.values()),
        "shards": counts,
        "digest": digest.hexdigest(),
        "vectors": dict(vectors),
    }


def _points(shard: Any) -> Iterator[tuple[int | str, Any]]:
    """In the order of their ids."""
    import qdrant_edge as edge

    offset = None
    while True:
        request = edge.ScrollRequest(offset=offset, limit=PAGE, with_payload=True, with_vector=True)
        page, offset = shard.scroll(request)
        for point in page:
            yield (point.id if isinstance(point.id, int) else str(point.id)), point
        if offset is None:
            return


# -- databases -----------------------------------------------------------------------------------


def _sqlite(file: Path, folder: Path) -> Found:
    """Every page and every foreign key of the file as it lies there; of a copy in `folder`, with its log."""
    alone = file.parent != folder
    uri = f"file:{quote(str(file))}?{'mode=ro&immutable=1' if alone else 'mode=rw'}"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
        database.execute("PRAGMA trusted_schema=OFF")
        database.execute("PRAGMA cell_size_check=ON")
        problems = [str(row[0]) for row in database.execute(f"PRAGMA integrity_check({WORST})")]
        if problems != ["ok"]:
            return {"error": "; ".join(problems[:3]), "damage": True}
        broken = database.execute("PRAGMA foreign_key_check").fetchmany(WORST)
        return {
            "engine": f"SQLite {sqlite3.sqlite_version}",
            "rows": _sqlite_rows(database),
            "orphans": [f"row {row[1]} of {row[0]} refers to nothing in {row[2]}" for row in broken],
        }


def _sqlite_rows(database: sqlite3.Connection) -> dict[str, int]:
    names = database.execute(
        "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    return {name: int(database.execute(f"SELECT COUNT(*) FROM {_quoted(name)}").fetchone()[0]) for (name,) in names}  # noqa: S608


def _duckdb(file: Path, folder: Path) -> Found:
    """Every row of a copy, its log replayed; each block is read, and DuckDB checks its sums.

    Of a file elsewhere it is opened to be read: a log is replayed in memory, and nothing is written beside it.
    """
    import duckdb

    config: dict[str, Any] = {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "temp_directory": str(folder / "spill"),
    }
    with duckdb.connect(str(file), read_only=file.parent != folder, config=config) as database:
        tables = database.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary ORDER BY ALL"
        ).fetchall()
        rows = {f"{s}.{t}" if s != "main" else t: _duckdb_rows(database, s, t) for s, t in tables}
    return {"engine": f"DuckDB {duckdb.__version__}", "rows": rows}


def _duckdb_rows(database: Any, schema: str, table: str) -> int:
    """Counted while every value is read: the bare number stands in the file's own statistics."""
    query = f"SELECT COUNT(*), BIT_XOR(HASH(t)) FROM {_quoted(schema)}.{_quoted(table)} AS t"  # noqa: S608
    return int(database.execute(query).fetchone()[0])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


TASKS = {"snapshot": _snapshot, "sqlite": _sqlite, "duckdb": _duckdb}

if __name__ == "__main__":
    main(*sys.argv[1:])
