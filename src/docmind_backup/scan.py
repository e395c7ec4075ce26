"""Look at a DocMind environment and its Qdrant. Read-only: damage is a fact to report, never an exception."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from docmind_backup import embedded
from docmind_backup.core import docmind, restore
from docmind_backup.core.environment import Choices, Environment
from docmind_backup.core.model import (
    IN_FLIGHT,
    CollectionState,
    IndexSnapshot,
    Kind,
    Layout,
    Part,
    QdrantState,
    Reason,
    Seen,
    Source,
)
from docmind_backup.core.planner import Inventory, Watch
from docmind_backup.core.server import CollectionServer
from docmind_backup.errors import QdrantError, QdrantRefused, QdrantUnreachable, UsageError
from docmind_backup.journal import ended
from docmind_backup.reach import lstat, scandir, walk

STORAGE_SKIP = ("_tmp-*", ".lock*", "CURRENT.tmp", ".activation-transaction.json.tmp", "*.tmp")
"""Locks and workspaces in data/storage: the application makes them anew."""
SIDECARS = {Kind.SQLITE: ("-wal", "-journal"), Kind.DUCKDB: (".wal",)}
UPLOADS = PurePosixPath("data/uploads")
TEXT_LIMIT = 64 * 1024 * 1024
"""Bytes of a small file (CURRENT, a manifest) read at most."""


def scan(
    environment: Environment,
    choices: Choices,
    server: CollectionServer | QdrantError | None,
    known: Mapping[str, str] | None = None,
) -> Inventory:
    """What is there, how big, how old.

    `server`: None when Qdrant is off or embedded, the error when its address may not be used.
    `known`: role to collection in the last backup, for when no index snapshot is active.
    """
    layout = environment.layout or _layout(environment)
    snapshots, incomplete = _index_snapshots(environment.storage)
    active, problem = _active(environment.storage, snapshots, layout)
    storage_skip = tuple(name for name in incomplete if name != active)
    seen = tuple(_look(s) for s in _sources(environment, layout, choices, storage_skip) if not _late(s))
    inventory = Inventory(
        environment=environment,
        layout=layout,
        deployment_id=_text(environment.deployment_id_file),
        seen=seen,
        snapshots=snapshots,
        active=active,
        active_problem=problem,
        encrypted_artifacts=sum(s.encrypted for s in seen if s.source.part is Part.ARTIFACTS),
        watch=_watch(environment, next(s for s in seen if s.source.path == _real(environment.uploads))),
        notes=(*_leftovers(environment, layout, seen), *_incomplete_notes(storage_skip)),
    )
    return replace(inventory, qdrant=_qdrant(inventory, choices, server, known or {}))


def check_places(environment: Environment, choices: Choices, root: Path) -> None:
    """UsageError when there is no data directory, or the backups in `root` and a source lie inside each other."""
    if not os.path.isdir(environment.data_dir):
        raise UsageError(
            f"no DocMind data directory: {environment.data_dir}",
            hint="run in DocMind's project folder, give it with -C DIR, or set DOCMIND_DATA_DIR",
        )
    layout = environment.layout or _layout(environment)
    _check_root(root, _sources(environment, layout, choices, ()))


def places(environment: Environment, choices: Choices, blank: Layout = Layout.V2) -> tuple[Layout, tuple[Seen, ...]]:
    """Where each source is or would be, as it is now: what a restore would overwrite.

    `blank`: the layout of an environment in which nothing tells.
    """
    layout = environment.layout or _layout(environment, blank)
    return layout, tuple(_look(source) for source in _sources(environment, layout, choices, (), absent=True))


def fingerprint(seen: Seen) -> str:
    """What lies there, so that a change of it is seen by another process too: a digest of every name and stat."""
    source, digest = seen.source, blake2b(digest_size=16)
    suffixes = restore.SIDECARS.get(source.kind, ())
    for suffix in ("", *suffixes):
        digest.update(_stat_words("", f"{source.path}{suffix}"))
    if seen.exists and source.kind in (Kind.TREE, Kind.EMBEDDED):
        top = str(source.path)
        for folder, folders, files in walk(top):
            for name in sorted((*folders, *files)):
                path = f"{folder}/{name}"
                digest.update(_stat_words(path[len(top) + 1 :], path))
    return f"{seen.files} files, {seen.bytes} bytes, {digest.hexdigest()}" if seen.exists else "absent"


def _stat_words(name: str, path: str) -> bytes:
    try:
        found = lstat(path)
    except OSError as error:
        return f"{error.errno}\0".encode()
    words = (name, found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return "\0".join(map(str, words)).encode(errors="surrogateescape") + b"\0"


def watch(environment: Environment) -> Watch:
    """What must not move during a run: compared before and after."""
    return _watch(environment, _look_tree(Source(Part.UPLOADS, Kind.TREE, "", _real(environment.uploads), UPLOADS)))


def _watch(environment: Environment, uploads: Seen) -> Watch:
    current = _text(environment.storage / "CURRENT")
    restores = ended(_real(environment.data_dir))
    return Watch(current, _text(environment.deployment_id_file), uploads.fingerprint, restores)


# -- what to look at -----------------------------------------------------------------------------


def _layout(environment: Environment, blank: Layout = Layout.V2) -> Layout:
    """v2 has a deployment id, schema 2 manifests and cache/ingestion; v1 has none of them but a v1 cache or storage."""
    if os.path.exists(environment.deployment_id_file) or os.path.exists(environment.cache_db):
        return Layout.V2
    snapshots, _ = _index_snapshots(environment.storage)
    if any(snapshot.schema_version.startswith("2") for snapshot in snapshots):
        return Layout.V2
    return Layout.V1 if snapshots or os.path.exists(environment.cache_db_v1) else blank


def _sources(
    environment: Environment, layout: Layout, choices: Choices, storage_skip: tuple[str, ...], *, absent: bool = False
) -> Iterator[Source]:
    """Every source of files the layout knows; the planner picks those that were asked for.

    `absent`: also those that a backup may hold and that are looked for only where they lie.
    """
    e, v2 = environment, layout is Layout.V2
    cache = e.cache_db if v2 else e.cache_db_v1
    chat = e.chat_db if v2 or not os.path.exists(e.sqlite_db_v1) else e.sqlite_db_v1
    stored_storage = (*STORAGE_SKIP, *storage_skip)
    rows: list[tuple[Part, Kind, Path, str, tuple[str, ...]]] = [
        (Part.IDENTITY, Kind.FILE, e.deployment_id_file, "data/.deployment-id", ()),
        (Part.STORAGE, Kind.TREE, e.storage, "data/storage", stored_storage),
        (Part.UPLOADS, Kind.TREE, e.uploads, str(UPLOADS), ()),
        *((Part.UPLOADS, Kind.TREE, e.data_dir / Path(s).name, s, ()) for s in IN_FLIGHT),
        (Part.ARTIFACTS, Kind.TREE, e.artifacts, "data/artifacts", (".*.tmp",)),
        (Part.CHAT, Kind.SQLITE, chat, f"data/{chat.name}", ()),
        (Part.CACHE, Kind.DUCKDB, cache, f"cache/{cache.name}", ()),
        (Part.ANALYTICS, Kind.DUCKDB, e.analytics_db, f"data/analytics/{e.analytics_db.name}", ()),
        (Part.LOGS, Kind.TREE, e.logs, "logs", ()),
        *((Part.LOGS, Kind.FILE, p, f"logs/{p.name}", ()) for p in _outside_logs(e, absent=absent)),
        (Part.ENV, Kind.FILE, e.env_file, ".env", ()),
    ]
    if absent and not v2 and chat != e.sqlite_db_v1:
        rows.append((Part.CHAT, Kind.SQLITE, e.sqlite_db_v1, f"data/{e.sqlite_db_v1.name}", ()))
    if choices.qdrant_path:
        rows.append((Part.QDRANT, Kind.EMBEDDED, choices.qdrant_path, "qdrant-embedded", ()))
    for part, kind, path, stored, skip in rows:
        yield Source(part, kind, _name(e.project, path), _real(path), PurePosixPath(stored), skip)


def _late(source: Source) -> bool:
    """In-flight folders that are not there are not worth a word."""
    return str(source.stored) in IN_FLIGHT and not os.path.exists(source.path)


def _outside_logs(environment: Environment, *, absent: bool) -> Iterator[Path]:
    """Log files that the settings put elsewhere than `./logs`."""
    for path in dict.fromkeys((environment.log_file, environment.telemetry)):
        if not path.is_relative_to(environment.logs) and (absent or os.path.isfile(path)):
            yield path


def _name(project: Path, path: Path) -> str:
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def _real(path: Path) -> Path:
    """The root of a source, links resolved once; below it none is followed."""
    return Path(os.path.realpath(path))


def _check_root(root: Path, sources: Iterable[Source]) -> None:
    """No destination inside a source and no source inside the destination (design.md, invariant 9)."""
    real = _real(root)
    for source in sources:
        tree = source.kind in (Kind.TREE, Kind.EMBEDDED)
        if (tree and real.is_relative_to(source.path)) or source.path.is_relative_to(real):
            raise UsageError(
                f"the backups in {root} and the source {source.name} lie inside each other",
                hint="choose another place with --dest",
            )


# -- how it is -----------------------------------------------------------------------------------


def _look(source: Source) -> Seen:
    if source.path == Path("/"):
        return Seen(source, 0, 0, exists=False, problem=restore.ROOT)
    try:
        found = os.stat(source.path, follow_symlinks=False)
    except FileNotFoundError:
        return Seen(source, 0, 0, exists=False)
    except OSError as error:
        return Seen(source, 0, 0, exists=False, problem=error.strerror or "cannot be looked at")
    if source.kind in (Kind.TREE, Kind.EMBEDDED):
        if not stat.S_ISDIR(found.st_mode):
            return Seen(source, 0, 0, exists=False, problem="it is not a directory")
        if not os.access(source.path, os.R_OK | os.X_OK):
            return Seen(source, 0, 0, exists=False, problem="Permission denied")
        return _look_tree(source)
    return _look_file(source, found)


def _look_tree(source: Source) -> Seen:
    """Its regular files. What cannot be read is capture's to report."""
    files = size = fingerprint = encrypted = 0
    pending = [""]
    while pending:
        folder = pending.pop()
        for entry in _listed(f"{source.path}/{folder}", () if folder else source.skip):
            path = folder + entry.name
            try:
                if entry.is_file(follow_symlinks=False):
                    found = entry.stat(follow_symlinks=False)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(f"{path}/")
                    continue
                else:
                    continue
            except OSError:
                continue
            files += 1
            size += found.st_size
            fingerprint ^= hash((path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
            encrypted += path.endswith(".enc")
    return Seen(source, files, size, fingerprint=fingerprint, encrypted=encrypted)


def _listed(folder: str, skip: Sequence[str]) -> Iterator[os.DirEntry[str]]:
    """One after the other: each keeps its stat, and there may be a million in one folder."""
    try:
        with scandir(folder) as entries:
            for entry in entries:
                if not skip or not any(fnmatch(entry.name, pattern) for pattern in skip):
                    yield entry
    except OSError:
        return


def _look_file(source: Source, found: os.stat_result) -> Seen:
    if not stat.S_ISREG(found.st_mode):
        return Seen(source, 0, 0, exists=False, problem="it is not a regular file")
    size = found.st_size
    for suffix in SIDECARS.get(source.kind, ()):
        path = source.path.with_name(source.path.name + suffix)
        with suppress(OSError):  # a journal comes and goes
            beside = path.stat()
            size += beside.st_size if stat.S_ISREG(beside.st_mode) else 0
    return Seen(source, 1, size)


def _bytes(path: Path) -> bytes | None:
    """A small file's content, None when there is none to be had."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            return file.read(TEXT_LIMIT) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    except OSError:
        return None


def _text(path: Path) -> str:
    return (_bytes(path) or b"").decode("utf-8", "replace").strip()


# -- index snapshots -----------------------------------------------------------------------------


def active_snapshot(storage: Path, layout: Layout) -> IndexSnapshot | None:
    """The index snapshot that the application would load; None when there is none that can be read."""
    known, _ = _index_snapshots(storage)
    name, _ = _active(storage, known, layout)
    return next((snapshot for snapshot in known if snapshot.name == name), None)


def deployment_id(environment: Environment) -> str:
    """Empty when there is none."""
    return _text(environment.deployment_id_file)


def _index_snapshots(storage: Path) -> tuple[tuple[IndexSnapshot, ...], tuple[str, ...]]:
    """(those with all their manifests, names of those without), sorted by name: oldest first."""
    try:
        names = sorted(
            e.name
            for e in os.scandir(storage)
            if docmind.INDEX_SNAPSHOT_NAME.match(e.name) and e.is_dir(follow_symlinks=False)
        )
    except OSError:
        return (), ()
    complete: list[IndexSnapshot] = []
    incomplete: list[str] = []
    for name in names:
        if all(os.path.isfile(storage / name / manifest) for manifest in docmind.INDEX_MANIFESTS):
            complete.append(docmind.index_snapshot(name, _bytes(storage / name / "manifest.meta.json") or b""))
        else:
            incomplete.append(name)
    return tuple(complete), tuple(incomplete)


def _active(storage: Path, snapshots: Sequence[IndexSnapshot], layout: Layout) -> tuple[str, str]:
    """(name of the active index snapshot, what is wrong with it)."""
    if not os.path.exists(storage / "CURRENT"):
        newest = snapshots[-1].name if snapshots and layout is Layout.V1 else ""
        return newest, ""
    name = _text(storage / "CURRENT")
    if not docmind.INDEX_SNAPSHOT_NAME.match(name):
        return "", "CURRENT does not hold the name of an index snapshot"
    for snapshot in snapshots:
        if snapshot.name == name:
            return name, snapshot.problem and f"{name}: {snapshot.problem}"
    return name, f"CURRENT names {name}, which is missing or has no manifest"


def _incomplete_notes(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        yield f"data/storage/{name} has no complete manifest: left out"


def _leftovers(environment: Environment, layout: Layout, seen: Sequence[Seen]) -> Iterator[str]:
    """What an operator would want to know and nobody else tells."""
    stale = environment.cache_db_v1
    if layout is Layout.V2 and stale != environment.cache_db and os.path.isfile(stale):
        yield f"{_name(environment.project, stale)} is a stale v1 cache, not the live one: left out"
    workspaces = sum(1 for path in environment.storage.glob("_tmp-*"))
    if workspaces:
        yield f"data/storage has {workspaces} unfinished workspace{'s' * (workspaces > 1)} (_tmp-*): left out"
    if os.path.exists(environment.storage / ".activation-transaction.json"):
        yield "an activation of an index snapshot is in flight (data/storage/.activation-transaction.json)"
    for one in seen:
        if str(one.source.stored) in IN_FLIGHT and one.files:
            files = f"{one.files:,} file{'s' * (one.files > 1)}"
            yield f"uploads in flight: {files} in {one.source.name}, saved as they are"
    if (
        layout is Layout.V2
        and not os.path.exists(environment.deployment_id_file)
        and os.path.isdir(environment.storage)
    ):
        yield "data/.deployment-id is missing: DocMind refuses to start on such a data directory"


# -- Qdrant --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    role: str


def _wanted(inventory: Inventory, choices: Choices) -> tuple[_Wanted, ...]:
    """Which collections: those asked for; else by the active index snapshot (v2) or the settings (v1)."""
    if choices.collections:
        return tuple(_Wanted(name, "") for name in choices.collections)
    active, e = inventory.active_snapshot, inventory.environment
    if active is not None and active.collections:
        return tuple(_Wanted(name, role) for role, name in sorted(active.collections.items(), reverse=True))
    if inventory.layout is Layout.V1:
        extra = [_Wanted(e.semantic_cache_collection, "semantic_cache")] if e.semantic_cache_collection else []
        return (_Wanted(e.text_collection, "text"), _Wanted(e.image_collection, "image"), *extra)
    return ()


def _qdrant(
    inventory: Inventory,
    choices: Choices,
    server: CollectionServer | QdrantError | None,
    known: Mapping[str, str],
) -> QdrantState | None:
    if choices.qdrant == "off" or (choices.only and Part.QDRANT not in choices.only):
        return None
    wanted = _wanted(inventory, choices)
    if choices.qdrant_path:
        return _embedded(choices.qdrant_path, wanted)
    if server is None:
        return None
    if isinstance(server, QdrantError):
        return _silent(inventory.environment.qdrant_url, server)
    unclaimed = not wanted and inventory.active_snapshot is None
    if unclaimed:
        wanted = tuple(_Wanted(name, role) for role, name in known.items())
    try:
        return replace(_server(server, wanted), unclaimed=unclaimed and bool(wanted))
    except QdrantError as error:
        return _silent(server.url, error)


def _silent(url: str, error: QdrantError) -> QdrantState:
    reason = Reason.REFUSED if isinstance(error, QdrantRefused) else Reason.UNREACHABLE
    without = "" if isinstance(error, QdrantRefused) else "or leave Qdrant out with --no-qdrant-snapshot"
    return QdrantState(url, error=str(error), reason=reason, hint=", ".join(filter(None, (error.hint, without))))


def _server(server: CollectionServer, wanted: Sequence[_Wanted]) -> QdrantState:
    version, peers = server.version(), server.peers()
    if peers > 1:
        return QdrantState(
            server.url,
            version,
            peers,
            error=f"Qdrant runs as a cluster of {peers} nodes: one node's snapshot is not the whole collection",
            reason=Reason.DISTRIBUTED,
            hint="take snapshots on each node, or --no-qdrant-snapshot",
        )
    aliases = server.aliases() if wanted else {}
    meant: dict[str, str] = {}
    for want in wanted:
        meant.setdefault(aliases.get(want.name, want.name), want.role)
    states = tuple(_described(server, name, role) for name, role in meant.items())
    notes = tuple(
        f"{want.name} is an alias: what it stands for is saved under its own name, {aliases[want.name]}"
        for want in wanted
        if want.name in aliases
    )
    return QdrantState(server.url, version, peers, states, notes=notes)


def _described(server: CollectionServer, name: str, role: str) -> CollectionState:
    """One that the server cannot or will not describe is no reason to leave out the others."""
    try:
        return replace(_placed(server, server.describe(name)), role=role)
    except QdrantUnreachable:
        raise
    except QdrantError as error:
        problem = f"{error}; {error.hint}" if error.hint else str(error)
        return CollectionState(name, role, exists=False, problem=problem, refused=isinstance(error, QdrantRefused))


def _placed(server: CollectionServer, state: CollectionState) -> CollectionState:
    """With where its shards lie, where the server says so: a restore has to know it, a backup does not."""
    try:
        return replace(state, placement=server.placement(state.name)) if state.exists else state
    except QdrantError:
        return state


def _embedded(folder: Path, wanted: Sequence[_Wanted]) -> QdrantState:
    url = f"path:{folder}"
    try:
        found = {state.name: state for state in embedded.describe(_real(folder))}
    except (ValueError, OSError) as error:
        return QdrantState(url, embedded=True, error=str(error), reason=Reason.UNREADABLE)
    roles = {want.name: want.role for want in wanted}
    states = [replace(state, role=roles.get(name, "")) for name, state in found.items()]
    missing = [CollectionState(w.name, w.role, exists=False) for w in wanted if w.name not in found]
    return QdrantState(url, collections=(*states, *missing), embedded=True)
