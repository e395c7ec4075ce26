"""The folder of a QdrantClient(path=...): each collection whole, none unpickled, the application not disturbed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath

import pytest
from qdrant_client import QdrantClient, models

from docmind_backup.capture import Captured, capture
from docmind_backup.core.model import DirEntry, Entry, FileEntry, Kind, Part, Reason, Source
from docmind_backup.embedded import describe
from docmind_backup.sample import leaks_forgiven

STORED = PurePosixPath("qdrant/local")
COUNTS = {"text": 300, "image": 20}

APPLICATION = """
import sys
from qdrant_client import QdrantClient, models
client = QdrantClient(path=sys.argv[1])
print("ready", flush=True)
n = 1000
while sys.argv[2] == "busy":
    client.upsert("text", [models.PointStruct(id=n, vector={"dense": [0.1, 0.2, 0.3, 0.4]})])
    n += 1
sys.stdin.readline()
client.close()
"""


@contextmanager
def client(path: Path) -> Iterator[QdrantClient]:
    """A client in this process."""
    with leaks_forgiven(), closing(QdrantClient(path=str(path))) as opened:
        yield opened


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("embedded") / "storage"
    with client(path) as made:
        vector = models.VectorParams(size=4, distance=models.Distance.COSINE)
        sparse = {"sparse": models.SparseVectorParams()}
        made.create_collection("image", vectors_config=vector, metadata={"model": "siglip"})
        made.create_collection("text", vectors_config={"dense": vector}, sparse_vectors_config=sparse)
        numbers = [0.5, 0.25, 0.125, 1.0]
        dense = [models.PointStruct(id=n, vector={"dense": numbers}, payload={"n": n}) for n in range(300)]
        made.upsert("text", dense)
        made.upsert("image", [models.PointStruct(id=n, vector=numbers) for n in range(20)])
        alias = models.CreateAlias(collection_name="text", alias_name="current")
        made.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    return path


@pytest.fixture
def storage(made_once: Path, tmp_path: Path) -> Path:
    path = tmp_path / "source"
    shutil.copytree(made_once, path)
    return path


@contextmanager
def application(storage: Path, then: str = "idle") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "ignore", "-c", APPLICATION, str(storage), then]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.kill()
        process.communicate()


class Run:
    def __init__(self, path: Path, staging: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        staging.mkdir(exist_ok=True)
        self.staging = staging
        self.entries: list[Entry] = []
        source = Source(Part.QDRANT, Kind.EMBEDDED, "local-qdrant", path, STORED)
        self.captured: Captured = capture(source, staging, self.entries.append, on_bytes, busy_wait_s=5)

    def paths(self) -> list[str]:
        return [entry.path.removeprefix(f"{STORED}") for entry in self.entries]

    def reasons(self) -> dict[str, Reason]:
        return {o.source: o.reason for o in self.captured.omissions}


def seen(folder: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        s = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        ctime = 0 if path.name.endswith("-journal") else s.st_ctime_ns  # test_databases.seen
        found[str(path)] = (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, ctime, content)
    return found


def assert_recorded(run: Run) -> None:
    """Entries and files agree, both ways."""
    top = run.staging / STORED
    on_disk = {str(p.relative_to(run.staging)) for p in (top, *top.rglob("*"))} if top.exists() else set[str]()
    assert on_disk == {e.path for e in run.entries}
    for entry in run.entries:
        found = (run.staging / entry.path).stat()
        if isinstance(entry, FileEntry):
            assert (found.st_size, stat.S_IMODE(found.st_mode)) == (entry.size, 0o400)
        else:
            assert isinstance(entry, DirEntry)
            assert stat.S_IMODE(found.st_mode) == 0o700


def opened(run: Run) -> dict[str, int]:
    """What a client finds in a copy of the copy."""
    place = run.staging / "opened"
    shutil.copytree(run.staging / STORED, place)
    for path in place.rglob("*"):
        path.chmod(0o700)
    with client(place) as found:
        names = [c.name for c in found.get_collections().collections]
        return {name: found.count(name).count for name in names}


def test_a_closed_storage(storage: Path, tmp_path: Path) -> None:
    before = seen(storage)

    run = Run(storage, tmp_path / "staging")

    assert run.captured == Captured(points=COUNTS)
    assert run.paths() == [
        "",
        "/meta.json",
        "/collection",
        "/collection/image",
        "/collection/image/storage.sqlite",
        "/collection/text",
        "/collection/text/storage.sqlite",
    ]
    assert_recorded(run)
    assert seen(storage) == before
    assert opened(run) == COUNTS


def test_no_application_can_open_it_while_it_is_copied(storage: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def open_it(_count: int) -> None:
        if not said:
            command = [sys.executable, "-c", APPLICATION, str(storage), "idle"]
            tried = subprocess.run(command, capture_output=True, text=True, check=False)
            said.append(tried.stderr)

    run = Run(storage, tmp_path / "staging", on_bytes=open_it)

    assert "already accessed by another instance" in said[0]
    assert run.captured == Captured(points=COUNTS)
    with client(storage):
        pass


def test_a_storage_in_use(storage: Path, tmp_path: Path) -> None:
    with application(storage):
        before = seen(storage)
        run = Run(storage, tmp_path / "staging")
        assert seen(storage) == before

    assert run.captured.omissions == ()
    (note,) = run.captured.notes
    assert "the embedded storage was open: its collections were captured one after the other" in note
    assert run.captured.points == COUNTS
    assert_recorded(run)
    assert opened(run) == COUNTS


def test_a_storage_being_written(storage: Path, tmp_path: Path) -> None:
    with application(storage, "busy"):
        run = Run(storage, tmp_path / "staging")

    assert run.captured.omissions == ()
    assert opened(run) == run.captured.points
    assert run.captured.points["text"] >= 300


def test_a_storage_that_was_never_locked_gets_no_lock_file(storage: Path, tmp_path: Path) -> None:
    (storage / ".lock").unlink()
    before = seen(storage)

    run = Run(storage, tmp_path / "staging")

    assert run.captured == Captured(points=COUNTS)
    assert seen(storage) == before


def with_collections(storage: Path, names: set[str]) -> None:
    meta = json.loads((storage / "meta.json").read_text())
    config = next(iter(meta["collections"].values()))
    meta["collections"] = dict.fromkeys(names, config)
    new = storage / "meta.json.tmp"
    new.write_text(json.dumps(meta))
    new.rename(storage / "meta.json")


def test_a_collection_that_goes_meanwhile_makes_it_begin_again(storage: Path, tmp_path: Path) -> None:
    done: list[int] = []

    def drop(_count: int) -> None:
        if not done and (tmp_path / "staging" / STORED / "collection/text").exists():
            done.append(1)
            with_collections(storage, {"text"})
            shutil.rmtree(storage / "collection" / "image")

    run = Run(storage, tmp_path / "staging", on_bytes=drop)

    assert run.captured == Captured(points={"text": 300})
    assert_recorded(run)
    assert opened(run) == {"text": 300}


def test_collections_that_come_and_go_all_the_time_are_named(storage: Path, tmp_path: Path) -> None:
    turns: list[int] = []

    def change(_count: int) -> None:
        if (tmp_path / "staging" / STORED / "collection").exists():
            turns.append(1)
            with_collections(storage, {"text", "image", f"more{len(turns)}"})

    run = Run(storage, tmp_path / "staging", on_bytes=change)

    assert run.reasons()["local-qdrant/meta.json"] is Reason.CHANGING
    assert run.captured.points == COUNTS
    assert_recorded(run)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("break_it", "source", "points"),
    [
        (lambda p: remove(p / "meta.json"), "/meta.json", COUNTS),
        (lambda p: (p / "meta.json").write_text("{"), "/meta.json", COUNTS),
        (lambda p: (p / "meta.json").write_text("[" * 200_000), "/meta.json", COUNTS),
        (lambda p: (p / "meta.json").write_text('{"collections": {"a": 1}}'), "/meta.json", COUNTS),
        (lambda p: (p / "meta.json").write_bytes(b"\xff\xfe{}"), "/meta.json", COUNTS),
        (lambda p: remove(p / "collection/text"), "/collection/text", {"image": 20}),
        (lambda p: remove(p / "collection/text/storage.sqlite"), "/collection/text", {"image": 20}),
        (
            lambda p: os.truncate(p / "collection/text/storage.sqlite", 9000),
            "/collection/text/storage.sqlite",
            {"image": 20},
        ),
        (lambda p: remove(p / "collection"), "/collection/text", {}),
    ],
)
def test_what_is_broken_is_named_and_the_rest_captured(
    break_it: Callable[[Path], object], source: str, points: dict[str, int], storage: Path, tmp_path: Path
) -> None:
    break_it(storage)
    before = seen(storage)

    run = Run(storage, tmp_path / "staging")

    assert run.reasons()[f"local-qdrant{source}"] is Reason.DAMAGED
    assert run.captured.points == points
    assert_recorded(run)
    assert seen(storage) == before


def test_a_storage_from_before_sqlite_is_kept_and_named(storage: Path, tmp_path: Path) -> None:
    remove(storage / "collection/text/storage.sqlite")
    (storage / "collection/text/storage.dbm.dat").write_bytes(b"old")

    run = Run(storage, tmp_path / "staging")

    (omission,) = run.captured.omissions
    assert (omission.source, omission.reason) == ("local-qdrant/collection/text", Reason.DAMAGED)
    assert "storage written by qdrant-client before 1.1.7" in omission.detail
    assert "/collection/text/storage.dbm.dat" in run.paths()
    assert_recorded(run)


def test_a_link_in_it_is_not_followed(storage: Path, tmp_path: Path) -> None:
    (storage / "collection/text").rename(tmp_path / "elsewhere")
    (storage / "collection/text").symlink_to(tmp_path / "elsewhere")

    run = Run(storage, tmp_path / "staging")

    assert run.reasons() == {"local-qdrant/collection/text": Reason.DAMAGED}
    assert run.captured.points == {"image": 20}


def test_a_folder_that_meta_does_not_name_is_kept_but_not_counted(storage: Path, tmp_path: Path) -> None:
    with_collections(storage, {"image"})

    run = Run(storage, tmp_path / "staging")

    assert run.captured == Captured(points={"image": 20})
    assert "/collection/text/storage.sqlite" in run.paths()


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_text("x")])
def test_a_folder_that_is_gone(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "source")

    run = Run(tmp_path / "source", tmp_path / "staging")

    assert run.reasons() == {"local-qdrant": Reason.GONE}
    assert run.entries == []


# -- describe ------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [False, True])
def test_describe_tells_what_meta_and_the_stores_say(used: bool, storage: Path) -> None:
    if used:
        with application(storage):
            before = seen(storage)
            states = describe(storage)
            assert seen(storage) == before
    else:
        before = seen(storage)
        states = describe(storage)
        assert seen(storage) == before

    image, text = states
    assert (image.name, image.role, image.points, image.exists) == ("image", "", 20, True)
    assert (image.vectors["size"], image.metadata, image.aliases) == (4, {"model": "siglip"}, ())
    assert (text.name, text.points, text.aliases) == ("text", 300, ("current",))
    assert (set(text.vectors), set(text.sparse_vectors)) == ({"dense"}, {"sparse"})
    assert text.config["vectors"] == text.vectors


def test_describe_counts_over_a_hot_journal(storage: Path) -> None:
    path = storage / "collection/text/storage.sqlite"
    script = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA cache_size=2")
c.execute("BEGIN")
c.execute("UPDATE points SET point = zeroblob(900)")
print("ready", flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert path.with_name("storage.sqlite-journal").stat().st_size
    before = seen(storage)

    states = describe(storage)

    assert seen(storage) == before
    assert [state.name for state in states] == ["image", "text"]


def test_describe_never_leaves_the_folder(storage: Path, tmp_path: Path) -> None:
    outside = tmp_path / "collection-outside"
    outside.mkdir()
    with closing(sqlite3.connect(outside / "storage.sqlite")) as c:
        c.execute("CREATE TABLE points(id)")
        c.execute("INSERT INTO points VALUES (1)")
        c.commit()
    with_collections(storage, {"../../collection-outside", str(outside), "..", "", "a\0b"})

    assert {state.points for state in describe(storage)} == {0}


def test_describe_of_nothing_is_empty(tmp_path: Path) -> None:
    assert describe(tmp_path / "nothing") == ()


@pytest.mark.parametrize(
    "break_it",
    [
        lambda p: remove(p / "meta.json"),
        lambda p: (p / "meta.json").write_text("not JSON"),
        lambda p: (p / "meta.json").write_text("[]"),
        lambda p: (remove(p / "meta.json"), os.mkfifo(p / "meta.json")),
    ],
)
def test_describe_refuses_a_meta_it_cannot_use(break_it: Callable[[Path], object], storage: Path) -> None:
    break_it(storage)

    with pytest.raises(ValueError, match=r"meta\.json: "):
        describe(storage)
