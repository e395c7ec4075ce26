"""What core/server.py promises, asked of the fake, the stand-in and a real Qdrant alike."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import pytest
from tests.fakes import FakeServer
from tests.standin import StandIn

from docmind_backup import leftovers, snapshot_tar
from docmind_backup.core.qdrant_rest import DATE_LAG, named_at
from docmind_backup.core.server import CollectionServer, ServerSnapshot
from docmind_backup.creating import begin
from docmind_backup.deep import prove_snapshot
from docmind_backup.errors import QdrantError, QdrantRefused
from docmind_backup.ledger import Begun, Fate, Ledger, clean_up, delete_ours
from docmind_backup.leftovers import Whose
from docmind_backup.qdrant import connect

REAL_URL = os.environ.get("DOCMIND_TEST_QDRANT_URL", "")
REAL_KEY = os.environ.get("DOCMIND_TEST_QDRANT_API_KEY", "")
REAL_READING_KEY = os.environ.get("DOCMIND_TEST_QDRANT_READ_ONLY_KEY", "")
"""Read now: no test sees the settings of the shell."""
METADATA = {"docmind_owner": "text", "docmind_schema_version": "2"}


@dataclass
class Qdrant:
    """A Qdrant to write to by hand, the server under test beside it. Leaves nothing of ours behind."""

    url: str
    key: str
    server: CollectionServer
    made: list[str] = field(default_factory=list)
    reading_key: str = ""

    def put(self, path: str, body: dict[str, Any], *, method: str = "PUT") -> None:
        headers = {"api-key": self.key} if self.key else {}
        answer = httpx.request(method, self.url + path, json=body, headers=headers, trust_env=False, timeout=60)
        answer.raise_for_status()

    def collection(self, name: str = "", points: int = 5) -> str:
        """A new one; the name ends in something random."""
        name = f"{name or 'contract'} {uuid4().hex[:12]}"
        self.made.append(name)
        vectors = {"text-dense": {"size": 4, "distance": "Cosine"}}
        sparse = {"text-sparse": {"modifier": "idf"}}
        path = _path(name)
        self.put(path, {"vectors": vectors, "sparse_vectors": sparse, "metadata": METADATA})
        self.put(f"{path}/index?wait=true", {"field_name": "doc_id", "field_schema": "keyword"})
        if points:
            self.put(f"{path}/points?wait=true", {"points": [_point(number) for number in range(points)]})
        return name

    def alias(self, alias: str, name: str) -> None:
        action = {"create_alias": {"collection_name": name, "alias_name": alias}}
        self.put("/collections/aliases", {"actions": [action]}, method="POST")

    def drop(self, name: str, *, snapshots: bool = True) -> None:
        """Its snapshots first: they would stay on the server, out of reach."""
        for snapshot in self.server.snapshots(name) if snapshots else ():
            self.server.delete_snapshot(name, snapshot.name)
        self.put(_path(name), {}, method="DELETE")

    def make(self, name: str) -> None:
        """An empty collection of exactly this name; dropped afterwards."""
        self.made.append(name)
        self.put(_path(name), {"vectors": {"size": 4, "distance": "Cosine"}})

    def ask_and_go(self, path: str) -> None:
        """POST by somebody who does not wait for the answer."""
        place = urlsplit(self.url)
        key = f"api-key: {self.key}\r\n" if self.key else ""
        with socket.create_connection((place.hostname or "", place.port or 0)) as line:
            line.sendall(f"POST {path} HTTP/1.1\r\nhost: q\r\ncontent-length: 0\r\n{key}\r\n".encode())


class InMemory(Qdrant):
    """The fake: filled without a wire."""

    def __init__(self, fake: FakeServer) -> None:
        super().__init__(fake.url, "", fake)
        self._fake = fake

    def collection(self, name: str = "", points: int = 5) -> str:
        name = f"{name or 'contract'} {uuid4().hex[:12]}"
        self._fake.add(name, points, metadata=METADATA)
        payloads = {number: _point(number)["payload"] for number in range(points)}
        self._fake.collections[name].payloads.update(payloads)
        return name

    def alias(self, alias: str, name: str) -> None:
        self._fake.alias_names[alias] = name


def _path(name: str) -> str:
    return f"/collections/{quote(name, safe='')}"


def _point(number: int) -> dict[str, Any]:
    vector = {"text-dense": [1.0, number, 2.0, 3.0], "text-sparse": {"indices": [number], "values": [1.0]}}
    return {"id": number, "vector": vector, "payload": {"doc_id": f"d{number}"}}


@pytest.fixture(params=["fake", "standin", "real"])
def qdrant(request: pytest.FixtureRequest) -> Iterator[Qdrant]:
    if request.param == "fake":
        yield InMemory(FakeServer())
    elif request.param == "standin":
        with StandIn(api_key="contract-key", read_only_key="reading-key") as standin:
            yield from _connected(standin.url, "contract-key", "reading-key")
    elif REAL_URL:
        yield from _connected(REAL_URL, REAL_KEY, REAL_READING_KEY)
    else:
        pytest.skip("DOCMIND_TEST_QDRANT_URL names no real Qdrant to ask")


def _connected(url: str, key: str, reading_key: str) -> Iterator[Qdrant]:
    with connect(url, api_key=key) as server:
        qdrant = Qdrant(server.url, key, server, reading_key=reading_key)
        yield qdrant
        for name in qdrant.made:
            if server.describe(name).exists:
                qdrant.drop(name)


def nothing(_size: int) -> None:
    """A progress bar nobody looks at."""


# -- the server ----------------------------------------------------------------------------------


def test_the_server_says_what_and_where_it_is_and_what_time_it_is(qdrant: Qdrant) -> None:
    assert qdrant.server.version()[0].isdigit()
    assert qdrant.server.url == qdrant.url
    assert qdrant.server.peers() == 1
    now = qdrant.server.now()
    assert now.tzinfo is UTC
    assert now.microsecond == 0
    assert abs(now - datetime.now(UTC)) < timedelta(hours=1)


def test_collections_are_listed_in_order(qdrant: Qdrant) -> None:
    names = {qdrant.collection("b"), qdrant.collection("a")}
    listed = qdrant.server.names()
    assert names <= set(listed)
    assert list(listed) == sorted(listed)


# -- a collection --------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["", "with space", "ünï", "50% off", "a#b&c=d", "{x}", "a%2Fb"])
def test_a_collection_is_described_whatever_it_is_called(qdrant: Qdrant, odd: str) -> None:
    name = qdrant.collection(odd)
    state = qdrant.server.describe(name)
    assert (state.name, state.role, state.exists, state.points) == (name, "", True, 5)
    assert state.vectors == {"text-dense": {"size": 4, "distance": "Cosine"}}
    assert state.sparse_vectors == {"text-sparse": {"modifier": "idf"}}
    assert state.payload_schema["doc_id"]["data_type"] == "keyword"
    assert state.metadata == METADATA
    assert state.config["params"]["vectors"] == state.vectors
    assert (state.aliases, state.shards, state.sharding) == ((), 1, "auto")


def test_aliases_belong_to_their_collection(qdrant: Qdrant) -> None:
    name = qdrant.collection()
    alias = f"alias {uuid4().hex}"
    qdrant.alias(alias, name)
    assert qdrant.server.describe(name).aliases == (alias,)
    assert qdrant.server.aliases()[alias] == name


@pytest.mark.parametrize("points", [0, 1, 7])
def test_counts_are_exact(qdrant: Qdrant, points: int) -> None:
    assert qdrant.server.count(qdrant.collection(points=points)) == points


def test_points_come_in_order_with_the_keys_that_were_asked_for(qdrant: Qdrant) -> None:
    pages = list(qdrant.server.scroll(qdrant.collection(points=7), ["doc_id", "no such key"]))
    points = [point for page in pages for point in page]
    assert [point.id for point in points] == list(range(7))
    assert [point.payload for point in points] == [{"doc_id": f"d{number}"} for number in range(7)]
    assert list(qdrant.server.scroll(qdrant.collection(points=0), ["doc_id"])) == [()]


def test_points_come_with_their_whole_payloads_where_no_keys_are_named(qdrant: Qdrant) -> None:
    points = [point for page in qdrant.server.scroll(qdrant.collection(points=130), None) for point in page]
    assert [(point.id, point.payload) for point in points] == [
        (number, {"doc_id": f"d{number}"}) for number in range(130)
    ]


def test_a_single_node_has_all_shards(qdrant: Qdrant) -> None:
    placement = qdrant.server.placement(qdrant.collection())
    assert (placement.local, placement.elsewhere, placement.keys) == ((0,), (), ())


def test_what_is_not_there_is_described_as_absent(qdrant: Qdrant) -> None:
    name = f"nosuch {uuid4().hex}"
    assert not qdrant.server.describe(name).exists
    assert qdrant.server.snapshots(name) == ()
    qdrant.server.delete_snapshot(name, "a.snapshot")


@pytest.mark.parametrize("call", ["count", "create_snapshot", "placement"])
def test_what_needs_a_collection_fails_without_one(qdrant: Qdrant, call: str) -> None:
    with pytest.raises(QdrantError, match="doesn't exist"):
        getattr(qdrant.server, call)(f"nosuch {uuid4().hex}")


# -- its snapshots -------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["", "ünï 100%#"])
def test_a_snapshot_is_made_listed_fetched_and_deleted(qdrant: Qdrant, odd: str, tmp_path: Path) -> None:
    server, name, seen = qdrant.server, qdrant.collection(odd), list[int]()
    assert server.snapshots(name) == ()
    made = server.create_snapshot(name)
    assert server.snapshots(name) == (made,)
    assert abs(datetime.fromisoformat(made.created).replace(tzinfo=UTC) - server.now()) < timedelta(minutes=5)

    got = server.download(name, made.name, tmp_path / "a.snapshot", seen.append)
    data = (tmp_path / "a.snapshot").read_bytes()
    assert got.size == made.size == len(data) == sum(seen)
    assert got.sha256 == made.checksum == hashlib.sha256(data).hexdigest()
    assert snapshot_tar.check(tmp_path / "a.snapshot") == ()

    server.delete_snapshot(name, made.name)
    server.delete_snapshot(name, made.name)
    assert server.snapshots(name) == ()


def test_a_snapshot_that_is_not_there_cannot_be_fetched(qdrant: Qdrant, tmp_path: Path) -> None:
    with pytest.raises(QdrantError, match="Not found"):
        qdrant.server.download(qdrant.collection(), "nosuch.snapshot", tmp_path / "a", nothing)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_not_overwritten(qdrant: Qdrant, tmp_path: Path) -> None:
    name = qdrant.collection()
    made = qdrant.server.create_snapshot(name)
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        qdrant.server.download(name, made.name, tmp_path / "a", nothing)
    assert (tmp_path / "a").read_bytes() == b"mine"


# -- what is ours on it --------------------------------------------------------------------------


def test_what_a_dead_run_wrote_down_is_deleted(qdrant: Qdrant, tmp_path: Path) -> None:
    server, name, ledger = qdrant.server, qdrant.collection("ünï left"), Ledger(tmp_path)
    begun = Begun("20260718_052755_0123456789ab", server.url, name, server.now().isoformat(), ())
    ledger.write(begun.answered(server.create_snapshot(name)))

    assert clean_up(ledger, server) == ()
    assert server.snapshots(name) == ()
    assert ledger.pending() == ()


def test_what_only_might_be_a_dead_runs_is_named_and_left(qdrant: Qdrant, tmp_path: Path) -> None:
    server, name, ledger = qdrant.server, qdrant.collection(), Ledger(tmp_path)
    ledger.write(Begun("20260718_052755_0123456789ab", server.url, name, server.now().isoformat(), ()))
    made = server.create_snapshot(name)

    (candidate,) = clean_up(ledger, server)
    assert (candidate.collection, candidate.snapshot) == (name, made)
    assert server.snapshots(name) == (made,)


# -- what a shared server does, told of no fake --------------------------------------------------


@pytest.fixture
def shared(qdrant: Qdrant) -> Qdrant:
    if isinstance(qdrant, InMemory):
        pytest.skip("the fake has no wire")
    return qdrant


def test_a_creation_whose_client_has_gone_is_finished_all_the_same(shared: Qdrant, tmp_path: Path) -> None:
    server, name, ledger = shared.server, shared.collection(), Ledger(tmp_path)
    creation = begin(server, ledger, name, "20260718_052755_0123456789ab")
    shared.ask_and_go(f"{_path(name)}/snapshots")

    made = _appearing(server, name)

    (candidate,) = clean_up(ledger, server)
    assert candidate.snapshot == made
    assert creation.end() is None
    assert server.snapshots(name) == (made,)


def _appearing(server: CollectionServer, name: str) -> ServerSnapshot:
    """Asked again until it is there: each question gives the server the time that it needs."""
    for _ in range(1000):
        if listed := server.snapshots(name):
            return listed[0]
    raise AssertionError("no snapshot came of the call")


def test_two_of_one_second_have_one_name_and_only_the_last_stays(shared: Qdrant) -> None:
    server, name = shared.server, shared.collection()
    for _ in range(20):
        first, second = server.create_snapshot(name), server.create_snapshot(name)
        if first.name == second.name:
            break
    else:
        pytest.skip("a snapshot takes longer than a second here")

    listed = {snapshot.name: snapshot for snapshot in server.snapshots(name)}

    assert listed[second.name] == second
    assert named_at(second.name) is not None
    if first.checksum != second.checksum:
        before = Begun("20260718_052755_0123456789ab", server.url, name, server.now().isoformat(), ())
        assert delete_ours(server, before.answered(first)) is Fate.GONE
        assert second in server.snapshots(name)


def test_a_part_of_a_snapshot_says_of_what_and_no_if_range_is_heard(shared: Qdrant) -> None:
    """What a download that goes on may rely on, and what it may not."""
    name = shared.collection()
    made = shared.server.create_snapshot(name)
    url, size = f"{shared.url}{_path(name)}/snapshots/{made.name}", made.size
    own = {"accept-encoding": "identity"} | ({"api-key": shared.key} if shared.key else {})

    def asked(range_: str, **more: str) -> tuple[int, str | None, str | None, int]:
        answer = httpx.get(url, headers={**own, "range": range_, **more}, trust_env=False, timeout=60)
        assert answer.headers.get("content-encoding", "identity") == "identity"
        return answer.status_code, answer.headers.get("content-range"), answer.headers.get("etag"), len(answer.content)

    whole = asked("bytes=0-")
    etag = shared.server.identity(name, made.name)
    assert (whole[0], whole[2], whole[3]) == (200, etag, size)
    rest = (206, f"bytes 100-{size - 1}/{size}", etag, size - 100)
    assert asked("bytes=100-") == rest
    assert asked("bytes=100-", **{"if-range": '"another file"'}) == rest
    assert asked("bytes=100-", **{"accept-encoding": "gzip"}) == rest
    for senseless in (f"bytes={size}-", "bytes=200-100", "bytes=a-b"):
        status, _, _, came = asked(senseless)
        assert (status, came) == (416, 0)
    assert httpx.head(url, headers=own, trust_env=False, timeout=60).status_code == 404


def test_a_snapshot_made_while_points_are_written_holds_a_number_between_both_counts(
    shared: Qdrant, tmp_path: Path
) -> None:
    server, name, over = shared.server, shared.collection(), Event()

    def write() -> None:
        for number in count(100):
            shared.put(f"{_path(name)}/points?wait=true", {"points": [_point(number)]})
            if over.is_set():
                return

    with connect(shared.url, api_key=shared.key) as another:
        while_it_is_made = Thread(target=write)
        while_it_is_made.start()
        try:
            before = another.count(name)
            made = another.create_snapshot(name)
            after = another.count(name)
        finally:
            over.set()
            while_it_is_made.join()
    server.download(name, made.name, tmp_path / "a.snapshot", nothing)

    assert before <= prove_snapshot(tmp_path / "a.snapshot").points <= after


def test_a_file_is_told_from_another_of_its_name(qdrant: Qdrant) -> None:
    server, name = qdrant.server, qdrant.collection()
    made = server.create_snapshot(name)
    first = server.identity(name, made.name)
    assert first == server.identity(name, made.name) != ""

    server.delete_snapshot(name, made.name)
    assert server.identity(name, made.name) == ""
    again = server.create_snapshot(name)
    assert server.identity(name, again.name) not in ("", first)


def test_a_name_holds_the_second_of_the_servers_clock(shared: Qdrant) -> None:
    before = shared.server.now()
    made = named_at(shared.server.create_snapshot(shared.collection()).name)
    after = shared.server.now()

    assert made is not None
    assert before <= made.replace(tzinfo=UTC) <= after + DATE_LAG


def test_snapshots_of_a_deleted_collection_reappear_with_its_name(shared: Qdrant, tmp_path: Path) -> None:
    server, name, ledger = shared.server, shared.collection(), Ledger(tmp_path)
    creation = begin(server, ledger, name, "20260718_052755_0123456789ab")
    made = creation.snapshot(0, lambda: None)
    shared.drop(name, snapshots=False)
    assert server.snapshots(name) == ()
    assert creation.end() is Fate.OUT_OF_REACH
    assert clean_up(ledger, server) == ()
    assert len(ledger.pending()) == 1

    shared.make(name)
    assert server.snapshots(name) == (made,)
    clean_up(ledger, server)

    assert server.snapshots(name) == ()
    assert ledger.pending() == ()


def test_a_snapshot_made_by_an_alias_is_one_of_its_collection(shared: Qdrant) -> None:
    server, name = shared.server, shared.collection()
    alias = f"alias {uuid4().hex}"
    shared.alias(alias, name)

    made = server.create_snapshot(alias)

    assert made.name.startswith(f"{name}-")
    assert server.snapshots(alias) == server.snapshots(name) == (made,)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/collections/a%2Fb", (404, 422)),
        (f"/collections/{'x' * 256}", (422,)),
    ],
)
def test_names_that_cannot_be_are_refused(path: str, status: tuple[int, ...], shared: Qdrant) -> None:
    headers = {"api-key": shared.key} if shared.key else {}
    body = {"vectors": {"size": 4, "distance": "Cosine"}}
    answer = httpx.put(shared.url + path, json=body, headers=headers, trust_env=False, timeout=60)

    assert answer.status_code in status


def test_a_snapshot_of_no_collection_is_a_refusal_and_no_note_is_left(shared: Qdrant, tmp_path: Path) -> None:
    server, ledger = shared.server, Ledger(tmp_path)
    creation = begin(server, ledger, f"nosuch {uuid4().hex}", "20260718_052755_0123456789ab")

    with pytest.raises(QdrantError, match="doesn't exist"):
        creation.snapshot(0, lambda: None)

    assert ledger.pending() == ()


@pytest.mark.parametrize(("key", "text"), [("", "Must provide an API key"), ("wrong", "Invalid API key")])
def test_without_the_key_the_answer_is_a_bare_text(key: str, text: str, shared: Qdrant) -> None:
    if not shared.key:
        pytest.skip("this server asks for no key")
    headers = {"api-key": key} if key else {}
    answer = httpx.get(f"{shared.url}/collections", headers=headers, trust_env=False, timeout=60)

    assert (answer.status_code, answer.headers.get("content-type")) == (401, None)
    assert text in answer.text
    assert httpx.get(f"{shared.url}/", trust_env=False, timeout=60).status_code == 200


def test_a_read_only_key_reads_all_and_makes_and_deletes_nothing(shared: Qdrant, tmp_path: Path) -> None:
    reading = shared.reading_key
    if not reading:
        pytest.skip("DOCMIND_TEST_QDRANT_READ_ONLY_KEY is not set")
    name, ledger = shared.collection(), Ledger(tmp_path)
    made = shared.server.create_snapshot(name)
    with connect(shared.url, api_key=reading) as server:
        assert server.count(name) == 5
        assert server.snapshots(name) == (made,)
        assert server.download(name, made.name, tmp_path / "a.snapshot", nothing).sha256 == made.checksum
        with pytest.raises(QdrantRefused, match="read-only: deleting a snapshot"):
            server.delete_snapshot(name, made.name)
        with pytest.raises(QdrantRefused, match="read-only: creating a snapshot"):
            begin(server, ledger, name, "20260718_052755_0123456789ab").snapshot(0, lambda: None)

    assert ledger.pending() == ()
    assert shared.server.snapshots(name) == (made,)


def test_what_lies_on_a_shared_server_is_told_apart(shared: Qdrant, tmp_path: Path) -> None:
    server, name, ledger = shared.server, shared.collection("ünï left"), Ledger(tmp_path)
    theirs = server.create_snapshot(name)
    creation = begin(server, ledger, name, "20260718_052755_0123456789ab")
    ours = creation.snapshot(0, lambda: None)

    found = leftovers.look(ledger, tmp_path / "none", server)

    told = {lying.snapshot: lying.whose for lying in found.snapshots if lying.collection == name}
    assert told == {theirs: Whose.OTHER, ours: Whose.OURS}
    assert creation.end() is Fate.DELETED
    assert server.snapshots(name) == (theirs,)
