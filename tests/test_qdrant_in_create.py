"""Collections as `create` brings them home: proven, counted, told apart from others' - or named as lacking."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from tests.conftest import Cli, Result
from tests.environments import DocMindV2, build_v2
from tests.standin import (
    ChunkedCut,
    CloseDelimited,
    Drip,
    Drop,
    Flip,
    ForcedGzip,
    HtmlPage,
    Stall,
    StandIn,
    WrongLength,
)

from docmind_backup.sample import TEXT_SPARSE_VECTORS, TEXT_VECTORS, build_sample, text_points

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong with the first call goes wrong with the text collection. Nothing is waited for in vain."""
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOADS", "1")
    monkeypatch.setenv("DOCMIND_BACKUP_RETRY_WAIT", "0")


# -- helpers -------------------------------------------------------------------------------------


def create(cli: Cli, env: DocMindV2, *args: object) -> Result:
    return cli("create", "-C", env.project, "--json", *args)


def qdrant_alone(cli: Cli, env: DocMindV2, *args: object) -> Result:
    return create(cli, env, "--only", "qdrant", *args)


def lacks(made: Result) -> list[tuple[str, str]]:
    """(what, why) of each omission."""
    return [(omission["source"], omission["reason"]) for omission in made.json()["omissions"]]


def detail(made: Result) -> str:
    (omission,) = made.json()["omissions"]
    return str(omission["detail"])


def record(made: Result) -> Json:
    return json.loads(Path(made.json()["directory"], "backup.json").read_bytes())


def recorded(made: Result) -> dict[str, Json]:
    """The record's collections by name."""
    return {collection["name"]: collection for collection in record(made)["qdrant"]["collections"]}


def points(made: Result, name: str) -> tuple[int, int, bool]:
    counted = recorded(made)[name]["points"]
    return counted["min"], counted["max"], counted["exact"]


def add(server: StandIn, name: str, count: int) -> None:
    """A collection of its own with so many points."""
    server.create_collection(name, text_points(count), vectors=TEXT_VECTORS, sparse_vectors=TEXT_SPARSE_VECTORS)


def assert_rest_is_saved(made: Result) -> None:
    rest = {"cache", "chat", "storage", "identity", "uploads", "artifacts"}
    assert rest <= set(made.json()["included"])


def assert_nothing_of_ours(server: StandIn) -> None:
    for name in server.collections():
        assert not server.snapshots(name)


# -- keys ----------------------------------------------------------------------------------------

KEYS = {
    "no key": ("secret", "", "", "wants an API key and none is set", "set DOCMIND_DATABASE__QDRANT_API_KEY"),
    "wrong key": ("secret", "", "guess", "API key is wrong", "correct DOCMIND_DATABASE__QDRANT_API_KEY"),
    "read-only key": (
        "secret",
        "look",
        "look",
        "API key is read-only: creating a snapshot needs a key with manage access",
        "set DOCMIND_DATABASE__QDRANT_API_KEY to such a key",
    ),
}
"""The server's key and its read-only one, ours, what is said of it and what to do."""


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_each_key_that_is_not_enough_is_told_apart_and_the_rest_is_saved(
    keys: tuple[str, str, str, str, str], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_key, read_only_key, ours, problem, what_to_do = keys
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_API_KEY", ours)
    with StandIn(api_key, read_only_key) as server:
        env = build_v2(tmp_path / "docmind", server)

        made = create(cli, env)
        required = cli("create", "-C", env.project, "--qdrant-snapshot")

    assert made.code == 3
    assert {omission["reason"] for omission in made.json()["omissions"]} == {"refused"}
    for omission in made.json()["omissions"]:
        assert problem in omission["detail"]
        assert what_to_do in omission["detail"]
    assert_rest_is_saved(made)
    assert required.code == 15
    assert problem in required.err
    assert what_to_do in required.err
    assert [path.name for path in env.backups.glob("*backup_*")] == [Path(made.json()["directory"]).name]


def test_the_right_key_is_enough(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_API_KEY", "secret")
    with StandIn(api_key="secret", read_only_key="look") as server:
        env = build_v2(tmp_path / "docmind", server)
        assert create(cli, env).code == 0


# -- what the server is --------------------------------------------------------------------------


def test_the_servers_version_and_address_are_recorded(cli: Cli, tmp_path: Path) -> None:
    with StandIn(version="1.17.42") as server:
        made = qdrant_alone(cli, build_v2(tmp_path / "docmind", server))
        qdrant = record(made)["qdrant"]
        assert (qdrant["version"], qdrant["url"], qdrant["embedded"]) == ("1.17.42", server.url, False)


def test_a_cluster_is_refused_and_the_rest_is_saved(cli: Cli, tmp_path: Path) -> None:
    with StandIn(peers=2) as server:
        env = build_v2(tmp_path / "docmind", server)
        made = create(cli, env)
        required = cli("create", "-C", env.project, "--qdrant-snapshot")

        assert not [r for r in server.requests if r.method == "POST" and r.path.endswith("/snapshots")]
    assert made.code == 3
    assert lacks(made) == [(server.url, "distributed")]
    assert "cluster of 2 nodes" in detail(made)
    assert "--no-qdrant-snapshot" in detail(made)
    assert_rest_is_saved(made)
    assert required.code == 15


# -- what is recorded ----------------------------------------------------------------------------


def test_a_collection_at_rest_is_counted_exactly(cli: Cli, env: DocMindV2) -> None:
    made = qdrant_alone(cli, env)

    assert points(made, env.text_collection) == (25, 25, True)
    assert points(made, env.image_collection) == (7, 7, True)
    assert made.json()["points"] == {"min": 32, "max": 32}


def test_points_written_meanwhile_make_the_count_a_range(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    more = text_points(31, seed=9)
    text = f"/{env.text_collection}/snapshots$"
    server.faults.before("POST", text, lambda: server.upsert(env.text_collection, more))

    made = qdrant_alone(cli, env)

    assert made.code == 0
    low, high, exact = points(made, env.text_collection)
    assert (low, exact) == (25, False)
    assert high == server.count(env.text_collection) > low
    assert points(made, env.image_collection) == (7, 7, True)
    assert made.json()["points"] == {"min": low + 7, "max": high + 7}


def test_points_deleted_meanwhile_too(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    ids = [point["id"] for point in server.points(env.text_collection)[:4]]
    server.faults.before("POST", "/snapshots$", lambda: server.delete_points(env.text_collection, ids))

    assert points(qdrant_alone(cli, env), env.text_collection) == (21, 25, False)


def test_all_that_a_restore_needs_to_know_is_recorded(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.create_alias("docmind_current", env.text_collection)
    server.create_alias("docmind_older_name", env.text_collection)

    collections = recorded(qdrant_alone(cli, env))

    text, image = collections[env.text_collection], collections[env.image_collection]
    assert (text["role"], image["role"]) == ("text", "image")
    assert text["aliases"] == ["docmind_current", "docmind_older_name"]
    assert image["aliases"] == []
    assert text["payload_schema"]["doc_id"]["data_type"] == "keyword"
    assert text["vectors"] == {"text-dense": {"size": 8, "distance": "Cosine"}}
    assert text["sparse_vectors"] == {"text-sparse": {"modifier": "idf"}}
    assert text["metadata"] == env.collection_metadata["text"]
    assert text["config"]["hnsw_config"]["m"] == 16
    assert text["sha256"] == text["server_checksum"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", text["taken_at"])


def test_metadata_that_is_not_the_index_snapshots_is_noted(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.delete_collection(env.image_collection)
    server.create_collection(env.image_collection, metadata={"docmind_owner": "somebody"})

    made = qdrant_alone(cli, env)

    assert made.code == 0
    assert [n for n in made.json()["notes"] if env.image_collection in n and "metadata" in n]
    assert not [n for n in made.json()["notes"] if env.text_collection in n]


# -- what arrives --------------------------------------------------------------------------------

BAD_DOWNLOADS = {
    "a bit flipped": (Flip(70_000), "mismatch"),
    "shorter than announced": (WrongLength(5), "unreachable"),
    "longer than announced": (WrongLength(-5), None),
    "cut": (Drop(70_000), "unreachable"),
    "reset": (Drop(70_000, reset=True), "unreachable"),
    "cut in chunks": (ChunkedCut(70_000), "unreachable"),
    "cut as if that were all": (ChunkedCut(70_000, clean=True), "mismatch"),
    "cut without a length": (CloseDelimited(70_000), "mismatch"),
    "nothing at all": (CloseDelimited(0), "mismatch"),
    "compressed": (ForcedGzip(), "unreachable"),
    "a web page": (HtmlPage(), "unreachable"),
}


@pytest.mark.parametrize(("fault", "reason"), BAD_DOWNLOADS.values(), ids=BAD_DOWNLOADS)
def test_what_does_not_arrive_as_it_was_made_is_not_kept(
    fault: Any, reason: str | None, cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOAD_RETRIES", "0")
    server.faults.downloads.append(fault)

    made = qdrant_alone(cli, env)

    assert made.code == 3
    ((source, found),) = lacks(made)
    assert source == env.text_collection
    assert found == (reason or found)
    assert list(recorded(made)) == [env.image_collection]
    assert not list(Path(made.json()["directory"]).rglob(f"{env.text_collection}*.snapshot"))
    assert cli("verify", "latest", "-C", env.project).code == 0
    assert_nothing_of_ours(server)


BAD_LINES: dict[str, Callable[[], Any]] = {
    "cut": lambda: Drop(12_000),
    "reset": lambda: Drop(12_000, reset=True),
    "shorter than announced": lambda: WrongLength(5),
    "cut in chunks": lambda: ChunkedCut(12_000),
    "silent": lambda: Stall(12_000, Event()),
    "a byte now and then": lambda: Drip(12_000, Event()),
}


@pytest.mark.parametrize("fault", BAD_LINES.values(), ids=BAD_LINES)
def test_what_breaks_off_is_taken_up_again_two_at_once(
    fault: Callable[[], Any], cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOADS", "2")
    monkeypatch.setenv("DOCMIND_BACKUP_STALL_TIMEOUT", "0.3")
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_RATE", "100000")
    server.faults.downloads += [fault(), fault()]

    made = qdrant_alone(cli, env)

    assert made.code == 0, made.err
    assert list(recorded(made)) == [env.text_collection, env.image_collection]
    assert cli("verify", "latest", "-C", env.project).code == 0
    assert_nothing_of_ours(server)


@pytest.mark.parametrize("fault", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_never_gets_better_is_given_up(
    fault: Callable[[], Any], cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOADS", "2")
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOAD_RETRIES", "1")
    monkeypatch.setenv("DOCMIND_BACKUP_STALL_TIMEOUT", "0.3")
    monkeypatch.setenv("DOCMIND_BACKUP_MIN_RATE", "100000")
    server.faults.every_download = fault()

    made = create(cli, env)

    assert made.code == 3
    assert lacks(made) == [(env.text_collection, "unreachable"), (env.image_collection, "unreachable")]
    assert not list(Path(made.json()["directory"]).rglob("*.snapshot"))
    assert_rest_is_saved(made)
    assert_nothing_of_ours(server)


def test_a_checksum_that_is_not_that_of_the_bytes_is_a_mismatch(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.faults.checksum = "0" * 64

    made = create(cli, env)

    assert made.code == 3
    assert lacks(made) == [(env.text_collection, "mismatch"), (env.image_collection, "mismatch")]
    assert "the server said 000000000000" in made.json()["omissions"][0]["detail"]
    assert_rest_is_saved(made)
    assert_nothing_of_ours(server)


def test_without_a_checksum_the_size_still_tells(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.faults.no_checksum = True
    server.faults.downloads.append(ChunkedCut(70_000, clean=True))

    made = qdrant_alone(cli, env)

    assert made.code == 3
    assert lacks(made) == [(env.text_collection, "mismatch")]
    assert "70,000 bytes arrived" in detail(made)


def test_a_server_without_checksums_gives_a_complete_backup_with_a_note(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    server.faults.no_checksum = True

    made = qdrant_alone(cli, env)

    assert made.code == 0
    assert made.json()["completeness"] == "complete"
    assert [note for note in made.json()["notes"] if f"{env.text_collection}: the server gave no checksum" in note]
    assert recorded(made)[env.text_collection]["server_checksum"] in ("", None)
    assert_nothing_of_ours(server)


# -- what is ours and what is not ----------------------------------------------------------------


def test_a_snapshot_that_another_client_put_in_the_place_of_ours_stays_and_we_make_another(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    server.faults.replace_after_create = 1

    made = qdrant_alone(cli, env)

    assert made.code == 0, made.err
    (theirs,) = server.snapshots(env.text_collection)
    assert recorded(made)[env.text_collection]["snapshot_name"] != theirs
    assert not server.snapshots(env.image_collection)
    assert cli("verify", "latest", "-C", env.project).code == 0


def test_a_client_that_always_takes_the_place_of_ours_is_a_named_lack(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    server.faults.replace_after_create = 3

    made = qdrant_alone(cli, env)

    assert made.code == 3
    assert lacks(made) == [(env.text_collection, "mismatch")]
    assert len(server.snapshots(env.text_collection)) == 3
    assert cli("verify", "latest", "-C", env.project).code == 0


def test_a_snapshot_that_somebody_deleted_before_we_had_it_is_made_again(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    def delete_all() -> None:
        for name in server.snapshots(env.text_collection):
            server.state.delete_snapshot(env.text_collection, name)

    server.faults.before("GET", f"/{env.text_collection}/snapshots/", delete_all)

    made = qdrant_alone(cli, env)

    assert made.code == 0, made.err
    assert_nothing_of_ours(server)


def test_a_snapshot_that_another_client_made_this_very_second_is_not_replaced(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    theirs: list[str] = []
    text = f"/{env.text_collection}/snapshots$"
    server.faults.before("GET", text, lambda: theirs.append(server.create_snapshot(env.text_collection)))

    made = qdrant_alone(cli, env)

    assert made.code == 0, made.err
    assert recorded(made)[env.text_collection]["snapshot_name"] not in theirs
    assert list(server.snapshots(env.text_collection)) == theirs


def test_a_snapshot_that_cannot_be_deleted_is_noted_and_the_next_run_removes_it(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    server.faults.delete_fails = 1
    server.put_snapshot(env.text_collection, "theirs.snapshot", b"theirs")

    made = qdrant_alone(cli, env)

    (left,) = set(server.snapshots(env.text_collection)) - {"theirs.snapshot"}
    assert made.code == 0
    assert [note for note in made.json()["notes"] if left in note and "still on the server" in note]
    assert qdrant_alone(cli, env).code == 0
    assert list(server.snapshots(env.text_collection)) == ["theirs.snapshot"]
    assert not list(env.backups.glob(".state/servers/*"))


def test_a_run_without_qdrant_leaves_the_cleaning_to_one_with_it(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.faults.delete_fails = 1
    assert qdrant_alone(cli, env).code == 0

    assert create(cli, env, "--no-qdrant-snapshot").code == 0
    assert len(server.snapshots(env.text_collection)) == 1

    assert create(cli, env).code == 0
    assert_nothing_of_ours(server)


def test_a_refused_creation_leaves_nothing_to_clean_up(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.faults.refuse("POST", "/snapshots$", 500, "Service internal error: No space left on device")

    made = qdrant_alone(cli, env)

    assert made.code == 3
    assert "the disk of the Qdrant server" in detail(made)
    assert not list(env.backups.glob(".state/servers/*"))


class Passage(Event):
    """A gate that stands open and tells when somebody came through."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = Event()
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        self.passed.set()
        return super().wait(timeout)


def test_a_creation_that_takes_too_long_is_named_and_what_comes_of_it_later_too(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_CREATE_TIMEOUT", "1")
    monkeypatch.setenv("DOCMIND_BACKUP_LATE_WAIT", "0")
    asked, late_answer = Event(), Passage()
    server.faults.create_gate, server.faults.answer_gate = asked, late_answer
    made = create(cli, env, "--collection", env.text_collection)
    asked.set()
    assert late_answer.passed.wait(60)

    next_one = create(cli, env, "--collection", env.text_collection)

    assert made.code == 3
    assert lacks(made) == [(env.text_collection, "unreachable")]
    assert "nothing came for 1 s" in detail(made)
    assert_rest_is_saved(made)
    assert next_one.code == 0, next_one.err
    (late,) = server.snapshots(env.text_collection)
    assert [left["snapshot"] for left in next_one.json()["left_on_server"]] == [late]


def test_a_download_that_stalls_is_given_up(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_STALL_TIMEOUT", "0.2")
    monkeypatch.setenv("DOCMIND_BACKUP_DOWNLOAD_RETRIES", "0")
    server.faults.downloads.append(Stall(70_000, Event()))

    made = qdrant_alone(cli, env)

    assert made.code == 3
    assert lacks(made) == [(env.text_collection, "unreachable")]
    assert "nothing came for 0.2 s" in detail(made)
    assert_nothing_of_ours(server)


# -- which collections ---------------------------------------------------------------------------

ODD_NAMES = {
    "spaces": "my own collection ",
    "unicode": "Überprüfung 数据 \N{PILE OF POO}",
    "quotes": 'it\'s "quoted" `so`',
    "url": "a%2Fb?c=d&e#f",
    "markup": "[bold]not markup",
    "backslash": "a\\b",
    "dots": "...",
    "long": "long-" + "x" * 245,
    "long unicode": "ü" * 120,
}


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_a_collection_may_be_called_what_it_likes(name: str, cli: Cli, env: DocMindV2, server: StandIn) -> None:
    add(server, name, 6)

    made = qdrant_alone(cli, env, "--collection", name)

    assert made.code == 0, made.err
    assert list(recorded(made)) == [name]
    assert points(made, name) == (6, 6, True)
    assert record(made)["scope"]["collections"] == [f"name:{name}"]
    assert cli("verify", "latest", "-C", env.project).code == 0
    assert cli("show", "latest", "-C", env.project).code == 0
    folders = [path for path in Path(made.json()["directory"], "qdrant").iterdir() if path.is_dir()]
    assert len(folders) == 1
    assert_nothing_of_ours(server)


def test_several_collections_are_several_files(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    names = ["third", "long-" + "x" * 245, "long-" + "x" * 244 + "y"]
    for number, name in enumerate(names):
        add(server, name, number + 1)

    made = qdrant_alone(cli, env, *(word for name in names for word in ("--collection", name)))

    assert made.code == 0, made.err
    assert {name: one["points"]["max"] for name, one in recorded(made).items()} == dict(
        zip(names, (1, 2, 3), strict=True)
    )
    assert len({one["path"] for one in recorded(made).values()}) == 3
    assert_nothing_of_ours(server)


def test_two_collections_of_almost_the_same_name_are_both_cleaned_up(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    names = ["a collection with a name that goes on for long, one", "a collection with a name that goes on for long, 2"]
    for name in names:
        add(server, name, 2)
    these = [word for name in names for word in ("--collection", name)]
    server.faults.delete_fails = 2

    assert qdrant_alone(cli, env, *these).code == 0
    assert all(server.snapshots(name) for name in names)
    assert qdrant_alone(cli, env, *these).code == 0

    assert_nothing_of_ours(server)


@pytest.mark.parametrize("name", ["..", "a/b", "."])
def test_a_name_that_is_no_name_is_refused_and_never_a_path(
    name: str, cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    made = create(cli, env, "--collection", name)

    assert made.code == 3
    assert "cannot be the name of a collection" in detail(made)
    assert_rest_is_saved(made)
    assert not [r for r in server.requests if ".." in r.path or "a/b" in r.path or "a%2Fb" in r.path]


def test_a_collection_that_is_asked_for_and_not_there_is_named(cli: Cli, env: DocMindV2) -> None:
    made = create(cli, env, "--collection", "nosuch")

    assert made.code == 3
    assert lacks(made) == [("nosuch", "missing")]


def deleted_before_it_is_counted(server: StandIn, name: str) -> None:
    server.faults.before("POST", f"/{name}/points/count", lambda: server.delete_collection(name), skip=1)


def deleted_before_its_snapshots_are_listed(server: StandIn, name: str) -> None:
    server.faults.before("GET", f"/{name}/snapshots$", lambda: server.delete_collection(name))


def deleted_before_it_is_downloaded(server: StandIn, name: str) -> None:
    server.faults.before("GET", f"/{name}/snapshots/", lambda: server.delete_collection(name))


@pytest.mark.parametrize(
    "deletion",
    [deleted_before_it_is_counted, deleted_before_its_snapshots_are_listed, deleted_before_it_is_downloaded],
    ids=lambda deletion: deletion.__name__,
)
def test_a_collection_deleted_during_the_run_is_named_and_the_other_saved(
    deletion: Callable[[StandIn, str], None], cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    deletion(server, env.text_collection)

    made = create(cli, env)

    assert made.code == 3
    assert lacks(made) == [(env.text_collection, "missing")]
    assert list(recorded(made)) == [env.image_collection]
    assert_rest_is_saved(made)
    assert cli("verify", "latest", "-C", env.project).code == 0


# -- where it may be -----------------------------------------------------------------------------


@pytest.fixture
def no_names_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up and so nothing connected to."""

    def fail(*args: object, **_: object) -> list[Any]:
        pytest.fail(f"somebody asked for {args}")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.mark.usefixtures("no_names_asked")
@pytest.mark.parametrize("host", ["qdrant.example", "192.0.2.7", "[2001:db8::7]", "localhost.example"])
def test_a_remote_server_is_not_talked_to_without_leave(
    host: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = build_v2(tmp_path / "docmind")
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", f"http://{host}:6333")

    made = create(cli, env)
    required = cli("create", "-C", env.project, "--qdrant-snapshot")

    assert made.code == 3
    assert lacks(made) == [(f"http://{host}:6333", "refused")]
    assert "DOCMIND_SECURITY__ALLOW_REMOTE_ENDPOINTS" in detail(made)
    assert_rest_is_saved(made)
    assert required.code == 15


def test_leave_to_talk_to_a_remote_server_is_given_by_docminds_own_setting(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = server.url.replace("127.0.0.1", "0.0.0.0")
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", elsewhere)

    refused = qdrant_alone(cli, env)
    asked_before_leave = len(server.requests)
    monkeypatch.setenv("DOCMIND_SECURITY__ALLOW_REMOTE_ENDPOINTS", "true")
    allowed = qdrant_alone(cli, env)

    assert refused.code == 15
    assert asked_before_leave == 0
    assert allowed.code == 0, allowed.err
    assert record(allowed)["qdrant"]["url"] == elsewhere


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "^/$"), ("GET", "/cluster"), ("POST", "/snapshots$"), ("GET", "/snapshots/"), ("DELETE", "/snapshots/")],
)
def test_a_redirect_is_not_followed(method: str, path: str, cli: Cli, env: DocMindV2, server: StandIn) -> None:
    with StandIn() as elsewhere:
        server.faults.redirect(method, path, f"{elsewhere.url}/", times=None)

        made = create(cli, env)

        assert elsewhere.requests == []
    said = made.out + made.err
    assert made.code == (0 if method == "DELETE" else 3)
    assert "redirect" in said
    assert_rest_is_saved(made)


# -- embedded ------------------------------------------------------------------------------------

APPLICATION = """
import sys
from qdrant_client import QdrantClient
client = QdrantClient(path=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
client.close()
"""


@pytest.fixture
def embedded(tmp_path: Path) -> tuple[Path, Path]:
    sample = build_sample(tmp_path / "docmind")
    assert sample.qdrant_path
    return sample.project, sample.qdrant_path


def test_an_embedded_storage_at_rest_is_saved_without_a_word(cli: Cli, embedded: tuple[Path, Path]) -> None:
    project, storage = embedded

    made = cli("create", "-C", project, "--qdrant-path", storage, "--json")

    assert made.code == 0, made.err
    assert not [note for note in made.json()["notes"] if "embedded" in note]
    qdrant = record(made)["qdrant"]
    assert qdrant["embedded"] is True
    assert {c["role"]: (c["points"]["min"], c["points"]["max"]) for c in qdrant["collections"]} == {
        "text": (24, 24),
        "image": (12, 12),
    }
    assert cli("verify", "latest", "-C", project).code == 0


def test_an_embedded_storage_that_is_in_use_is_saved_with_a_note_and_counted_exactly(
    cli: Cli, embedded: tuple[Path, Path]
) -> None:
    project, storage = embedded
    command = [sys.executable, "-W", "ignore", "-c", APPLICATION, str(storage)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as application:
        assert application.stdout
        assert application.stdout.readline() == "ready\n"

        made = cli("create", "-C", project, "--qdrant-path", storage, "--json")

        application.communicate("\n", timeout=60)
    assert application.returncode == 0
    assert made.code == 0, made.err
    assert [note for note in made.json()["notes"] if "the embedded storage was open" in note]
    assert made.json()["points"] == {"min": 36, "max": 36}
    assert cli("verify", "latest", "-C", project).code == 0
