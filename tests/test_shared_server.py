"""A Qdrant as it really is: slow, behind a proxy, restarted, and shared with clients who make snapshots too.

What the stand-in does here was seen on a real 1.18.3: a create whose client has gone finishes all the same, two of
one second have one name, files of a deleted collection come back with its name.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from tests.conftest import Cli, Result
from tests.environments import DocMindV2
from tests.standin import StandIn
from tests.standin.state import SnapshotFile

from docmind_backup import creating
from docmind_backup.qdrant import connect
from docmind_backup.sample import TEXT_SPARSE_VECTORS, TEXT_VECTORS, text_points
from docmind_backup.scratch_collections import scratch_collection

Json = dict[str, Any]
HTML = {"content-type": "text/html"}


def create(cli: Cli, env: DocMindV2, *args: object) -> Result:
    """Of the text collection, or what `args` name instead."""
    which = args if "--collection" in args else ("--collection", env.text_collection, *args)
    return cli("create", "-C", env.project, "--only", "qdrant", "--json", *which)


def leftovers(cli: Cli, env: DocMindV2) -> Result:
    return cli("leftovers", "-C", env.project, "--json")


def left(made: Result) -> list[str]:
    return [one["snapshot"] for one in made.json()["left_on_server"]]


def whose(found: Result) -> dict[str, str]:
    return {one["snapshot"]: one["whose"] for one in found.json()["snapshots"]}


def standings(found: Result) -> list[str]:
    return [one["standing"] for one in found.json()["notes"]]


def lacks(made: Result) -> list[tuple[str, str]]:
    return [(one["source"], one["reason"]) for one in made.json()["omissions"]]


def recorded(made: Result) -> dict[str, Json]:
    record = json.loads(Path(made.json()["directory"], "backup.json").read_bytes())
    return {one["name"]: one for one in record["qdrant"]["collections"]}


def notes(env: DocMindV2) -> list[Path]:
    return list(env.backups.glob(".state/servers/*"))


def creations(server: StandIn) -> int:
    return sum(request.method == "POST" and request.path.endswith("/snapshots") for request in server.requests)


def snapshots_path(env: DocMindV2) -> str:
    return f"/{env.text_collection}/snapshots$"


# -- a create whose answer is lost ---------------------------------------------------------------


def hang_up(server: StandIn, path: str) -> None:
    server.faults.hang_up("POST", path)


def answering(status: int, headers: dict[str, str], body: bytes) -> Callable[[StandIn, str], None]:
    return lambda server, path: server.faults.answer("POST", path, status, headers, body)


LOST = {
    "the connection breaks": hang_up,
    "a proxy's patience ends": answering(504, HTML, b"<h1>504 Gateway Time-out</h1>"),
    "a proxy loses the server": answering(502, HTML, b"<h1>502 Bad Gateway</h1>"),
    "a proxy's own words": answering(520, {}, b""),
    "the server's own time is over": answering(
        408, {"content-type": "application/json"}, b'{"status": {"error": "Timeout"}, "time": 1}'
    ),
    "a page": answering(200, HTML, b"<html>Please log in</html>"),
    "accepted, and no name": answering(202, {"content-type": "application/json"}, b'{"status": "accepted"}'),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_what_the_server_made_is_taken_when_its_answer_is_lost_and_left_because_it_might_be_anothers(
    lose: Callable[[StandIn, str], None], cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    text, path = env.text_collection, snapshots_path(env)
    server.faults.before("POST", path, lambda: server.create_snapshot(text))
    lose(server, path)

    made = create(cli, env)

    assert made.code == 0, made.err
    (late,) = server.snapshots(text)
    assert recorded(made)[text]["snapshot_name"] == late
    assert [note for note in made.json()["notes"] if late in note and "not answered" in note]
    assert left(made) == [late]
    assert creations(server) == 1
    assert cli("verify", "latest", "-C", env.project).code == 0


def test_what_the_server_finishes_long_after_is_waited_for(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    text, path = env.text_collection, snapshots_path(env)
    server.faults.hang_up("POST", path)
    server.faults.before("GET", path, lambda: server.create_snapshot(text), skip=3)

    made = create(cli, env)

    assert made.code == 0, made.err
    assert left(made) == list(server.snapshots(text))


def test_a_server_that_is_being_restarted_meanwhile_is_asked_again(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    text, path = env.text_collection, snapshots_path(env)
    server.faults.before("POST", path, lambda: server.create_snapshot(text))
    server.faults.hang_up("POST", path)
    server.faults.hang_up("GET", path, skip=1)

    made = create(cli, env)

    assert made.code == 0, made.err
    assert left(made) == list(server.snapshots(text))


def test_which_of_two_is_ours_cannot_be_told_so_neither_is_taken_nor_deleted(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    text, path = env.text_collection, snapshots_path(env)
    clock = Clock()
    server.set_clock(clock)

    def two() -> None:
        for _ in range(2):
            server.create_snapshot(text)
            clock.tick()

    server.faults.before("POST", path, two)
    server.faults.hang_up("POST", path)

    made = create(cli, env)

    assert lacks(made) == [(text, "unreachable")]
    assert "2 snapshots appeared since" in made.json()["omissions"][0]["detail"]
    assert sorted(left(made)) == sorted(server.snapshots(text))
    assert len(server.snapshots(text)) == 2


def test_what_another_client_began_before_is_not_taken_for_ours(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_LATE_WAIT", "0")
    text, path = env.text_collection, snapshots_path(env)
    theirs = f"{text}-2841235159689269-2026-01-01-00-00-00.snapshot"
    server.faults.before("POST", path, lambda: server.put_snapshot(text, theirs, b"theirs"))
    server.faults.hang_up("POST", path)

    made = create(cli, env)

    assert lacks(made) == [(text, "unreachable")]
    assert left(made) == []
    assert len(notes(env)) == 1
    assert whose(leftovers(cli, env)) == {theirs: "other"}


def test_one_that_is_gone_before_it_could_be_fetched_is_a_lack_and_no_second_one_is_made(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    text, path = env.text_collection, snapshots_path(env)
    server.faults.before("POST", path, lambda: server.create_snapshot(text))
    server.faults.hang_up("POST", path)
    server.faults.before("GET", f"/{text}/snapshots/", lambda: delete_all(server, text))

    made = create(cli, env)

    assert lacks(made) == [(text, "mismatch")]
    assert creations(server) == 1


def delete_all(server: StandIn, name: str) -> None:
    for snapshot in server.snapshots(name):
        server.state.delete_snapshot(name, snapshot)


def test_a_call_that_nothing_came_of_stays_written_down(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_LATE_WAIT", "0")
    text, path = env.text_collection, snapshots_path(env)
    server.faults.hang_up("POST", path)
    assert lacks(create(cli, env)) == [(text, "unreachable")]

    late = server.create_snapshot(text)
    next_one = create(cli, env)

    assert next_one.code == 0, next_one.err
    assert left(next_one) == [late]
    assert list(server.snapshots(text)) == [late]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "Forbidden: Global manage access is required"),
        (404, "Not found: Collection `x` doesn't exist!"),
        (500, "Service internal error: failed to create snapshot"),
        (503, "Service unavailable"),
        (507, "Insufficient storage"),
    ],
)
def test_a_refusal_in_the_servers_own_words_is_an_answer(
    status: int, words: str, cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    server.faults.refuse("POST", snapshots_path(env), status, words)

    made = create(cli, env)

    assert made.code in (3, 15)
    assert notes(env) == []


# -- other clients -------------------------------------------------------------------------------


class Clock:
    """The server's, moved by the test."""

    def __init__(self) -> None:
        self.time = datetime(2026, 7, 18, 5, 27, 55, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def tick(self) -> None:
        self.time += timedelta(seconds=1)


@contextmanager
def beside(work: Callable[[], None], server: StandIn, *, every: int) -> Iterator[None]:
    """Another client in a thread of its own: works once for each so many requests of ours."""
    asked, over, number = Event(), Event(), count()

    def request() -> None:
        if next(number) % every == 0:
            asked.set()

    def run() -> None:
        while not over.is_set():
            asked.wait()
            asked.clear()
            if not over.is_set():
                work()

    server.faults.before("*", "", request, times=None)
    client = Thread(target=run)
    client.start()
    try:
        yield
    finally:
        over.set()
        asked.set()
        client.join()


def test_others_may_make_snapshots_and_write_points_all_the_time_and_nothing_of_theirs_is_touched(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    collections, clock = (env.text_collection, env.image_collection), Clock()
    theirs: dict[str, dict[str, bytes]] = {name: {} for name in collections}
    numbers = count(10_000)
    server.set_clock(clock)

    def make_snapshots() -> None:
        for name in collections:
            with server.state.lock:  # a second of its own each: in one second with ours, one would replace the other
                clock.tick()
                made = server.create_snapshot(name)
                theirs[name][made] = server.snapshots(name)[made]
                clock.tick()

    def write() -> None:
        first = next(numbers)
        vectors = {"text-dense": [0.5] * 8, "text-sparse": {"indices": [1], "values": [0.5]}}
        server.upsert(env.text_collection, [{"id": first, "vector": vectors, "payload": {}}])

    with beside(make_snapshots, server, every=5), beside(write, server, every=2):
        made = cli("create", "-C", env.project, "--json")

    assert made.code == 0, made.err
    assert all(len(made_by_them) > 1 for made_by_them in theirs.values())
    assert {name: server.snapshots(name) for name in collections} == theirs
    assert notes(env) == []
    text = recorded(made)[env.text_collection]["points"]
    assert 25 <= text["min"] <= text["max"] <= server.count(env.text_collection)
    assert cli("verify", "latest", "-C", env.project, "--deep").code == 0


def test_in_one_second_with_another_client_all_the_time_it_ends_well_or_says_what_it_lacks(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real clock, creates without a pause: what one replaces of the other is the server's doing, no deletion."""
    monkeypatch.setattr(creating, "FREE_WITHIN_S", 0.3)
    text, theirs, over = env.text_collection, set[int](), Event()
    deleted: list[SnapshotFile] = []
    delete = server.state.delete_snapshot

    def noting(name: str, snapshot: str) -> None:
        deleted.append(server.state.snapshot(name, snapshot))
        delete(name, snapshot)

    monkeypatch.setattr(type(server.state), "delete_snapshot", lambda _, *call: noting(*call), raising=True)

    def client() -> None:
        while not over.is_set():
            with server.state.lock:
                made = server.state.create_snapshot(text, by_another=True)
                theirs.add(server.state.snapshot(text, made).inode)

    thread = Thread(target=client)
    thread.start()
    try:
        made = create(cli, env)
    finally:
        over.set()
        thread.join()

    assert made.code in (0, 3), made.err
    assert made.code == 0 or lacks(made)[0][0] == text
    assert cli("verify", "latest", "-C", env.project, "--deep").code == 0
    assert theirs
    assert not theirs & {file.inode for file in deleted}


def test_where_every_second_is_taken_no_snapshot_of_theirs_is_replaced(
    cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "FREE_WITHIN_S", 0)
    clock = Clock()
    server.set_clock(clock)
    server.create_snapshot(env.text_collection)
    theirs = server.snapshots(env.text_collection)

    made = create(cli, env)

    assert lacks(made) == [(env.text_collection, "busy")]
    assert "ours would take the place of theirs" in made.json()["omissions"][0]["detail"]
    assert server.snapshots(env.text_collection) == theirs
    assert creations(server) == 0


@pytest.mark.parametrize("by_another", [True, False], ids=["another content", "the same to the bit"])
def test_a_snapshot_that_takes_our_name_before_we_delete_ours_stays(
    by_another: bool, cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    """Of a collection at rest, two of one second have one name, size and checksum: only the file is another."""
    text, clock = env.text_collection, Clock()
    server.set_clock(clock)
    server.put_snapshot(text, "theirs.snapshot", b"theirs", age_s=60)

    def replace_ours() -> None:
        server.state.create_snapshot(text, by_another=by_another)
        clock.tick()

    server.faults.before("GET", f"/{text}/snapshots/", lambda: server.faults.before("GET", "^/$", replace_ours), skip=1)

    made = create(cli, env)

    assert made.code == 0, made.err
    assert len(server.snapshots(text)) == 2
    assert not [r for r in server.requests if r.method == "DELETE"]
    assert creations(server) == 1
    assert notes(env) == []


@pytest.mark.parametrize("lag_s", [0, 1])
def test_ours_is_deleted_only_when_nobody_can_get_its_name_any_more(
    lag_s: int, cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    """DELETE has no condition: whoever makes a snapshot between our last look and it must get another name."""
    text, clock, asked = env.text_collection, Clock(), count()
    server.set_clock(clock)
    server.faults.date_lag_s = lag_s
    server.put_snapshot(text, "theirs.snapshot", b"theirs", age_s=60)

    def each_second_time() -> None:
        if next(asked) % 2:
            clock.tick()

    def once_it_is_made() -> None:
        server.faults.before("GET", "^/$", each_second_time, times=None)

    theirs: list[str] = []
    server.faults.after("POST", snapshots_path(env), once_it_is_made)
    server.faults.before("DELETE", f"/{text}/snapshots/", lambda: theirs.append(server.create_snapshot(text)))

    made = create(cli, env)

    assert made.code == 0, made.err
    assert server.snapshots(text).keys() == {"theirs.snapshot", *theirs}
    assert len(theirs) == 1


def test_snapshots_of_others_are_counted_and_left(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.put_snapshot(env.text_collection, "theirs.snapshot", b"theirs", age_s=60)

    made = create(cli, env)

    assert [n for n in made.json()["notes"] if "1 other snapshot" in n and env.text_collection in n]
    assert "1 other snapshot" in cli("show", "latest", "-C", env.project).out
    assert whose(leftovers(cli, env)) == {"theirs.snapshot": "other"}


# -- collections that do not stay as they are ----------------------------------------------------


def test_a_collection_deleted_while_our_snapshot_of_it_lay_there_is_cleaned_up_once_it_is_made_again(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    text = env.text_collection
    server.faults.before("GET", snapshots_path(env), lambda: server.delete_collection(text), skip=1)
    server.put_snapshot(text, "theirs.snapshot", b"theirs", age_s=60)

    made = create(cli, env)

    assert (made.code, lacks(made)) == (3, [(text, "moved")])
    assert recorded(made)[text]["points"]["max"] == 25
    (ours,) = set(server.snapshots(text)) - {"theirs.snapshot"}
    assert [note for note in made.json()["notes"] if ours in note and "out of reach" in note]
    assert ours in cli("show", "latest", "-C", env.project).out
    assert standings(leftovers(cli, env)) == ["out of reach"]

    assert create(cli, env).code == 14
    assert set(server.snapshots(text)) == {ours, "theirs.snapshot"}

    server.create_collection(text, text_points(6), vectors=TEXT_VECTORS, sparse_vectors=TEXT_SPARSE_VECTORS)
    assert whose(leftovers(cli, env)) == {ours: "ours", "theirs.snapshot": "other"}
    assert standings(leftovers(cli, env)) == ["listed"]

    create(cli, env)
    assert list(server.snapshots(text)) == ["theirs.snapshot"]
    assert notes(env) == []


def remake(server: StandIn, name: str, owner: str) -> None:
    server.delete_collection(name)
    metadata = {"docmind_owner": owner}
    server.create_collection(
        name, text_points(6), vectors=TEXT_VECTORS, sparse_vectors=TEXT_SPARSE_VECTORS, metadata=metadata
    )


def test_a_collection_made_anew_during_the_run_is_described_as_it_was_captured(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    text = env.text_collection
    server.faults.before("POST", snapshots_path(env), lambda: remake(server, text, "anew"))

    made = create(cli, env)

    assert made.code == 0, made.err
    taken = recorded(made)[text]
    assert taken["metadata"] == {"docmind_owner": "anew"}
    assert (taken["points"]["min"], taken["points"]["max"]) == (server.count(text),) * 2
    assert creations(server) == 3, "for the former plan, the former plan again, and the new one"
    assert not server.snapshots(text)


def test_a_collection_made_anew_again_and_again_is_a_named_lack(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    text, numbers = env.text_collection, count()
    again = lambda: remake(server, text, f"anew {next(numbers)}")  # noqa: E731
    server.faults.before("POST", snapshots_path(env), again, times=None)

    made = create(cli, env)

    assert lacks(made) == [(text, "changing")]
    assert not server.snapshots(text)
    assert notes(env) == []


def test_what_an_alias_stands_for_is_recorded_under_its_own_name(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    text = env.text_collection
    server.create_alias("docs live", text)

    made = create(cli, env, "--collection", "docs live", "--collection", text)

    assert made.code == 0, made.err
    assert list(recorded(made)) == [text]
    assert recorded(made)[text]["aliases"] == ["docs live"]
    assert [note for note in made.json()["notes"] if "docs live is an alias" in note and text in note]


def test_an_alias_moved_during_the_run_takes_nothing_of_ours_with_it(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    text, image = env.text_collection, env.image_collection
    server.create_alias("live", text)

    def move() -> None:
        server.delete_alias("live")
        server.create_alias("live", image)

    server.faults.before("POST", "/snapshots$", move)

    made = create(cli, env, "--collection", "live")

    assert made.code == 0, made.err
    assert recorded(made)[image]["aliases"] == ["live"], "it was planned again for what the alias stands for now"
    assert list(recorded(made)) == [image]
    assert not server.snapshots(text)
    assert not server.snapshots(image)


def test_collections_that_current_names_by_an_alias_are_captured_as_what_they_are(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    text = env.text_collection
    server.delete_collection(text)
    server.create_collection("restored", text_points(6), vectors=TEXT_VECTORS, sparse_vectors=TEXT_SPARSE_VECTORS)
    server.create_alias(text, "restored")

    made = cli("create", "-C", env.project, "--json")

    assert made.code == 0, made.err
    taken = recorded(made)["restored"]
    assert (taken["role"], taken["aliases"]) == ("text", [text])
    record = json.loads(Path(made.json()["directory"], "backup.json").read_bytes())
    assert [snapshot["collections_captured"] for snapshot in record["index_snapshots"] if snapshot["active"]] == [True]


@pytest.mark.parametrize(
    ("status", "words", "reason"),
    [
        (500, "Service internal error: panicked", "unreachable"),
        (403, "Forbidden: Access to collection is required", "refused"),
    ],
)
def test_a_collection_that_cannot_be_described_is_named_and_the_others_are_saved(
    status: int, words: str, reason: str, cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    server.faults.refuse("GET", f"/collections/{env.text_collection}$", status, words, times=None)

    made = cli("create", "-C", env.project, "--json")
    required = cli("create", "-C", env.project, "--qdrant-snapshot", "--json")

    assert made.code == 3
    assert lacks(made) == [(env.text_collection, reason)]
    assert words in made.json()["omissions"][0]["detail"]
    assert list(recorded(made)) == [env.image_collection]
    assert required.code == 15


def test_collections_that_no_index_snapshot_names_any_more_are_saved_while_they_are_there(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    assert cli("create", "-C", env.project, "--json").code == 0
    (env.storage / "CURRENT").unlink()

    for _ in range(2):
        made = cli("create", "-C", env.project, "--json")
        assert made.code == 14, made.err
        assert lacks(made) == [("text collection", "gone"), ("image collection", "gone")]
        assert "still on the server and saved" in made.json()["omissions"][0]["detail"]
        assert set(recorded(made)) == {env.text_collection, env.image_collection}

    accepted = cli("create", "-C", env.project, "--json", "--accept-shrink")
    after = cli("create", "-C", env.project, "--json")

    assert (accepted.code, after.code) == (0, 0), accepted.err
    assert [made.json()["points"] for made in (accepted, after)] == [None, None]
    assert server.collections() == sorted([env.text_collection, env.image_collection])


# -- what lies on the server ---------------------------------------------------------------------


@pytest.fixture
def one_of_each(cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Whose each snapshot on the server is: ours, one that may be ours, another's."""
    monkeypatch.setenv("DOCMIND_BACKUP_LATE_WAIT", "0")
    server.put_snapshot(env.text_collection, "theirs.snapshot", b"theirs", age_s=60)
    server.faults.hang_up("POST", snapshots_path(env))
    server.faults.delete_fails = 1
    assert cli("create", "-C", env.project, "--json").code == 3
    candidate = server.create_snapshot(env.text_collection)
    (ours,) = server.snapshots(env.image_collection)
    return {ours: "ours", candidate: "candidate", "theirs.snapshot": "other"}


def test_leftovers_tells_ours_from_what_may_be_and_from_others_and_changes_nothing(
    one_of_each: dict[str, str], cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    before, asked = tree(env.backups), len(server.requests)

    found = leftovers(cli, env)
    said = cli("leftovers", "-C", env.project)

    assert (found.code, said.code) == (0, 0)
    assert whose(found) == one_of_each
    assert sorted(standings(found)) == ["listed", "unanswered"]
    assert {one["snapshot"]: bool(one["command"]) for one in found.json()["snapshots"]} == {
        name: owner != "other" for name, owner in one_of_each.items()
    }
    for name in one_of_each:
        assert name in said.out
    assert said.out.count("curl -X DELETE") == 1
    assert tree(env.backups) == before
    assert {request.method for request in server.requests[asked:]} == {"GET"}


def test_each_command_of_leftovers_removes_what_it_says(
    one_of_each: dict[str, str], cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    for one in leftovers(cli, env).json()["snapshots"]:
        if one["command"]:
            subprocess.run(["sh", "-c", one["command"]], check=True, capture_output=True, env=dict(os.environ))

    assert whose(leftovers(cli, env)) == {"theirs.snapshot": "other"}
    assert sorted(standings(leftovers(cli, env))) == ["gone", "unanswered"]


@pytest.mark.usefixtures("one_of_each")
def test_leftovers_of_a_server_that_is_down_are_the_notes(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    server.close()

    found = leftovers(cli, env)
    said = cli("leftovers", "-C", env.project)

    assert (found.code, said.code) == (5, 5)
    assert found.json()["snapshots"] == []
    assert standings(found) == ["unknown", "unknown"]
    assert {Path(note["file"]) for note in found.json()["notes"]} == set(notes(env))
    assert "only what was written down is shown: nothing answers" in said.err


def test_leftovers_tells_the_collection_of_a_rehearsal_that_goes_on_and_of_one_that_was_killed(
    cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    folder = env.backups / ".state" / "scratch"
    with connect(server.url) as qdrant, scratch_collection(folder, qdrant, "20260718_052755_0123456789ab") as made:
        qdrant.create_collection(made.name)
        (note,) = (path.read_bytes() for path in folder.iterdir())
        going_on = leftovers(cli, env).json()["scratch"]
    (folder / "killed.json").write_bytes(note)
    killed = leftovers(cli, env).json()["scratch"]
    server.create_collection(made.name)
    server.put_snapshot(made.name, made.file, b"an upload")
    again = leftovers(cli, env)
    server.close()
    unasked = leftovers(cli, env).json()["scratch"]

    assert [[(one["standing"], bool(one["command"])) for one in found] for found in (going_on, killed, unasked)] == [
        [("in use", False)],
        [("unanswered", False)],
        [("unknown", False)],
    ]
    assert [(one["standing"], bool(one["command"])) for one in again.json()["scratch"]] == [("listed", True)]
    assert whose(again) == {made.file: "ours"}
    assert [path.read_bytes() for path in folder.iterdir()] == [note]


@pytest.mark.usefixtures("one_of_each")
def test_show_says_what_its_run_left(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    shown = cli("show", "latest", "-C", env.project, "--json").json()["left_on_server"]

    assert sorted((one["collection"], bool(one["snapshot"])) for one in shown) == [
        (env.text_collection, False),
        (env.image_collection, True),
    ]
    assert {one["server"] for one in shown} == {server.url}
    assert cli("show", "latest", "-C", env.project).out.count("left on http") == 2


def test_a_collection_whose_snapshots_cannot_be_listed_is_named(
    one_of_each: dict[str, str], cli: Cli, env: DocMindV2, server: StandIn
) -> None:
    server.faults.refuse("GET", f"/{env.image_collection}/snapshots$", 500, "Service internal error", times=None)

    found = leftovers(cli, env)

    assert found.code == 5
    assert [one["collection"] for one in found.json()["unread"]] == [env.image_collection]
    assert sorted(standings(found)) == ["unanswered", "unknown"]
    assert sorted(whose(found).values()) == ["candidate", "other"]
    assert len(one_of_each) == 3


def test_what_was_begun_at_another_address_waits_for_it(
    one_of_each: dict[str, str], cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandIn() as another:
        monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", another.url)
        assert standings(leftovers(cli, env)) == ["elsewhere", "elsewhere"]
        create(cli, env)
    assert len(notes(env)) == 2
    assert one_of_each


def test_this_machine_by_another_name_is_the_same_server(
    one_of_each: dict[str, str], cli: Cli, env: DocMindV2, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", server.url.replace("127.0.0.1", "LOCALHOST") + "/")

    assert whose(leftovers(cli, env)) == one_of_each
    made = cli("create", "-C", env.project, "--json")

    assert made.code == 0, made.err
    ours, candidate, theirs = one_of_each
    assert not server.snapshots(env.image_collection), ours
    assert set(server.snapshots(env.text_collection)) == {candidate, theirs}
    assert left(made) == [candidate]


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
