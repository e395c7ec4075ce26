"""What goes over the wire to Qdrant, and what each of its answers becomes."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import socket
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from pytest_httpx import HTTPXMock

from docmind_backup.core.server import Downloaded, ServerSnapshot
from docmind_backup.errors import Interrupted, QdrantError, QdrantRefused, QdrantUnreachable, UsageError
from docmind_backup.qdrant import QdrantServer, connect, resolve
from tests.standin import ChunkedCut, CloseDelimited, Drop, StandIn, Stall, WrongLength

RECORDINGS = Path(__file__).parent / "data" / "recordings"
URL = "http://localhost:6333"
KEY = "s3cr3t-key"
OCTETS = {"content-type": "application/octet-stream"}


# -- a Qdrant of recorded answers ----------------------------------------------------------------


@cache
def recorded(file: str, label: str) -> dict[str, Any]:
    exchanges = json.loads((RECORDINGS / f"{file}.json").read_text())
    return next(each["response"] for each in exchanges if each["label"] == label)


class Answers:
    """Registers answers; `GET /` is answered as 1.18.3 does unless a test says otherwise."""

    def __init__(self, mock: HTTPXMock) -> None:
        self.mock = mock

    def greet(self) -> None:
        self.mock.add_response(url=f"{URL}/", json={"version": "1.18.3"}, is_optional=True, is_reusable=True)

    def replay(self, file: str, label: str, **matching: Any) -> None:
        answer = recorded(file, label)
        body = {key: answer[key] for key in ("json", "text") if answer.get(key) is not None}
        self.give(answer["status"], headers=_kept(answer["headers"], body), **body, **matching)

    def give(self, status: int = 200, **answer: Any) -> None:
        self.mock.add_response(status_code=status, **answer)

    def result(self, result: Any, **more: Any) -> None:
        self.give(json={"result": result, "status": "ok", "time": 0.1}, **more)

    def error(self, status: int, words: str, **more: Any) -> None:
        self.give(status, json={"status": {"error": words}, "time": 0.1}, **more)

    def asked(self) -> list[httpx.Request]:
        """Without the greetings."""
        return [request for request in self.mock.get_requests() if request.url.path != "/"]


def _kept(headers: list[list[str]], body: dict[str, Any]) -> dict[str, str]:
    """Without what a body made anew has of its own."""
    return {name: value for name, value in headers if name not in ("content-length", "transfer-encoding")}


@pytest.fixture
def qdrant(httpx_mock: HTTPXMock) -> Answers:
    answers = Answers(httpx_mock)
    answers.greet()
    return answers


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with connect(URL, api_key=KEY) as server:
        yield server


@pytest.fixture
def keyless() -> Iterator[QdrantServer]:
    with connect(URL) as server:
        yield server


def nothing(_size: int) -> None:
    """A progress bar nobody looks at."""


Call = Callable[[QdrantServer, Path], object]

READS: dict[str, Call] = {
    "peers": lambda server, _: server.peers(),
    "names": lambda server, _: server.names(),
    "aliases": lambda server, _: server.aliases(),
    "describe": lambda server, _: server.describe("docs"),
    "count": lambda server, _: server.count("docs"),
    "snapshots": lambda server, _: server.snapshots("docs"),
    "download": lambda server, folder: server.download("docs", "a.snapshot", folder / "a", nothing),
}
WRITES: dict[str, Call] = {
    "create": lambda server, _: server.create_snapshot("docs"),
    "delete": lambda server, _: server.delete_snapshot("docs", "a.snapshot"),
}
CALLS = READS | WRITES


# -- what goes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_key_travels_in_its_header_only(call: Call, qdrant: Answers, server: QdrantServer, tmp_path: Path) -> None:
    qdrant.error(500, "no")
    with pytest.raises(QdrantError):
        call(server, tmp_path)
    for request in qdrant.mock.get_requests():
        assert request.headers["api-key"] == KEY
        assert KEY not in str(request.url)
        assert KEY.encode() not in request.content
        assert [name for name, value in request.headers.items() if KEY in value] == ["api-key"]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_without_a_key_no_header_is_sent(call: Call, qdrant: Answers, keyless: QdrantServer, tmp_path: Path) -> None:
    qdrant.error(500, "no")
    with pytest.raises(QdrantError):
        call(keyless, tmp_path)
    assert all("api-key" not in request.headers for request in qdrant.mock.get_requests())


def test_a_download_asks_for_the_bytes_as_they_are(qdrant: Answers, server: QdrantServer, tmp_path: Path) -> None:
    qdrant.give(content=b"tar", headers=OCTETS)
    server.download("docs", "a.snapshot", tmp_path / "a", nothing)
    (request,) = qdrant.asked()
    assert request.headers["accept-encoding"] == "identity"
    assert "range" not in request.headers


def test_timeouts_are_those_of_the_settings(qdrant: Answers, tmp_path: Path) -> None:
    qdrant.result([], method="GET", url=f"{URL}/collections/docs/snapshots")
    qdrant.result(None, method="POST")
    qdrant.give(content=b"", headers=OCTETS, method="GET")
    with connect(URL, connect_timeout_s=1, request_timeout_s=2, create_timeout_s=3, stall_timeout_s=4) as server:
        server.snapshots("docs")
        with pytest.raises(QdrantError):
            server.create_snapshot("docs")
        server.download("docs", "a.snapshot", tmp_path / "a", nothing)
    waits = [request.extensions["timeout"]["read"] for request in qdrant.asked()]
    assert waits == [2, 3, 4]
    assert qdrant.mock.get_requests()[0].extensions["timeout"]["connect"] == 1


ODD = {
    "with space": "with%20space",
    "ünï": "%C3%BCn%C3%AF",
    "a%2Fb": "a%252Fb",
    "50%": "50%25",
    "q?x=1": "q%3Fx%3D1",
    "a#b": "a%23b",
    "a&b=c;d": "a%26b%3Dc%3Bd",
    "{collection_name}": "%7Bcollection_name%7D",
    "...": "...",
    "..%2f..": "..%252f..",
    "a\nb": "a%0Ab",
    "http:x": "http%3Ax",
}


@pytest.mark.parametrize(("name", "quoted"), ODD.items(), ids=ODD.values())
@pytest.mark.parametrize("call", CALLS)
def test_odd_names_stay_one_segment_of_the_path(
    call: str, name: str, quoted: str, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "describe": lambda: server.describe(name),
        "count": lambda: server.count(name),
        "snapshots": lambda: server.snapshots(name),
        "create": lambda: server.create_snapshot(name),
        "delete": lambda: server.delete_snapshot(name, f"{name}.snapshot"),
        "download": lambda: server.download(name, f"{name}.snapshot", tmp_path / "a", nothing),
    }
    if call not in calls:
        pytest.skip(f"{call} has no name in its path")
    qdrant.error(500, "no")
    with pytest.raises(QdrantError):
        calls[call]()
    (request,) = qdrant.asked()
    segments = request.url.raw_path.decode().split("?")[0].split("/")
    assert segments[1:3] == ["collections", quoted]
    if call in ("delete", "download"):
        assert segments[3:] == ["snapshots", f"{quoted}.snapshot"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\0b", "\udcff"])
def test_a_name_that_would_change_the_path_is_never_sent(
    name: str, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    for call in (server.describe, server.count, server.snapshots, server.create_snapshot):
        with pytest.raises(QdrantError):
            call(name)
    for collection, snapshot in ((name, "a.snapshot"), ("docs", name)):
        with pytest.raises(QdrantError):
            server.delete_snapshot(collection, snapshot)
        with pytest.raises(QdrantError):
            server.download(collection, snapshot, tmp_path / "a", nothing)
    assert qdrant.asked() == []


# -- addresses and keys --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://localhost:6333", "http://localhost:6333"),
        ("http://localhost:6333/", "http://localhost:6333"),
        (" http://localhost ", "http://localhost:6333"),
        ("https://Qdrant.example", "https://qdrant.example:6333"),
        ("https://qdrant.example:443/q/", "https://qdrant.example:443/q"),
        ("http://[::1]:6333", "http://[::1]:6333"),
    ],
)
def test_an_address_is_read_as_qdrant_client_reads_it(given: str, base: str) -> None:
    server = connect(given)
    assert server.url == base
    assert repr(server) == f"QdrantServer({base!r})"


@pytest.mark.parametrize(
    "url",
    ["", "localhost:6333", "ftp://h", "http://", "http://h:port", "http://h:99999", "http://[::1", "http://h/?k=v"]
    + ["http://a b", "http://h/#x", "http://h/a b"],
)
def test_an_address_that_cannot_be_meant_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(url)
    assert "DOCMIND_DATABASE__QDRANT_URL" in caught.value.hint


@pytest.mark.parametrize("url", ["http://user:hunter2@localhost:6333", "http://hunter2@localhost"])
def test_credentials_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(url)
    assert "hunter2" not in told(caught.value)
    assert "DOCMIND_DATABASE__QDRANT_API_KEY" in caught.value.hint


@pytest.mark.parametrize("key", ["hunter2\n", "hun ter2", "hunter2é", "hunter2\x7f", "hunter2\0"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        connect(URL, api_key=key)
    assert "unter2" not in told(caught.value)


def told(error: BaseException) -> str:
    """All that a traceback prints, and the reprs, and the hint."""
    return "\n".join([*traceback.format_exception(error), repr(error), str(getattr(error, "hint", ""))])


# -- what comes back -----------------------------------------------------------------------------


def test_version_and_clock_come_from_the_greeting(httpx_mock: HTTPXMock, server: QdrantServer) -> None:
    Answers(httpx_mock).replay("one-node", "version", is_reusable=True)
    assert server.version() == "1.18.3"
    assert server.now() == datetime(2026, 11, 21, 1, 52, 31, tzinfo=UTC)


def test_the_clock_is_asked_each_time(httpx_mock: HTTPXMock, server: QdrantServer) -> None:
    for second in (1, 2):
        date = {"date": f"Sat, 21 Nov 2026 01:00:0{second} GMT"}
        httpx_mock.add_response(json={"version": "1"}, headers=date)
    assert [server.now().second, server.now().second] == [1, 2]


@pytest.mark.parametrize("date", [{}, {"date": "yesterday"}])
def test_a_server_without_a_clock_is_told_so(date: dict[str, str], httpx_mock: HTTPXMock, server: QdrantServer) -> None:
    httpx_mock.add_response(json={"version": "1"}, headers=date)
    with pytest.raises(QdrantError, match="what time it is"):
        server.now()


@pytest.mark.parametrize("answer", [{"text": "<html>"}, {"json": []}, {"json": {"title": "x"}}, {"json": None}])
def test_what_is_not_qdrant_is_told_so(answer: dict[str, Any], httpx_mock: HTTPXMock, server: QdrantServer) -> None:
    httpx_mock.add_response(**answer)
    with pytest.raises(QdrantError, match="not one that this tool knows") as caught:
        server.names()
    assert "DOCMIND_DATABASE__QDRANT_URL" in caught.value.hint


@pytest.mark.parametrize(("file", "peers"), [("one-node", 1), ("two-nodes", 2)])
def test_peers_are_counted(file: str, peers: int, qdrant: Answers, server: QdrantServer) -> None:
    qdrant.replay(file, "cluster")
    assert server.peers() == peers


def test_names_and_aliases_are_those_of_the_server(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.replay("one-node", "collections", url=f"{URL}/collections")
    qdrant.replay("one-node", "aliases", url=f"{URL}/aliases")
    text, image = (f"docmind_{kind}__34f9f8ac07251e60ac2ef6dbefe18874" for kind in ("docs", "images"))
    assert server.names() == (text, image)
    assert server.aliases() == {"docs-live": text}


def test_a_description_is_the_servers_own_to_the_last_field(qdrant: Answers, server: QdrantServer) -> None:
    said = json.loads(json.dumps(recorded("one-node", "collection")["json"]["result"]))
    said["config"]["params"]["vectors"]["text-dense"] |= {"distance": "Hamming", "from_the_future": [1]}
    said["config"]["strict_mode_config"] = {"enabled": True, "new_limit": 7}
    said["config"]["params"]["shard_number"] = 3
    said["payload_schema"]["doc_id"]["data_type"] = "molecule"
    said["status"] = "purple"
    qdrant.result(said, url=f"{URL}/collections/docs")
    qdrant.result({"count": 24}, method="POST", match_json={"exact": True})
    qdrant.replay("one-node", "collection aliases", url=f"{URL}/collections/docs/aliases")
    state = server.describe("docs")
    assert (state.name, state.role, state.exists, state.points) == ("docs", "", True, 24)
    assert state.config == said["config"]
    assert state.vectors == said["config"]["params"]["vectors"]
    assert state.sparse_vectors == {"text-sparse": {"modifier": "idf"}}
    assert state.payload_schema == said["payload_schema"]
    assert state.metadata == said["config"]["metadata"]
    assert state.metadata["docmind_owner"] == "text"
    assert (state.aliases, state.shards, state.sharding) == (("docs-live",), 3, "auto")


def test_custom_sharding_is_seen(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.replay("two-nodes", "custom info", url=f"{URL}/collections/cs")
    qdrant.replay("two-nodes", "count", method="POST")
    qdrant.result({"aliases": []}, url=f"{URL}/collections/cs/aliases")
    state = server.describe("cs")
    assert state.sharding == "custom"
    assert state.vectors == {"size": 4, "distance": "Dot"}
    assert (state.metadata, state.sparse_vectors) == ({}, {})


def test_fields_of_newer_servers_are_no_obstacle(qdrant: Answers, server: QdrantServer) -> None:
    new = {"from_the_future": {"x": 1}}
    description = {"name": "a.snapshot", "size": 5, "description": "nightly", **new}
    qdrant.result({"collections": [{"name": "docs", **new}], **new}, url=f"{URL}/collections")
    qdrant.result({"count": 3, **new}, url=f"{URL}/collections/docs/points/count")
    qdrant.result([description], url=f"{URL}/collections/docs/snapshots", method="GET")
    qdrant.result(description, method="POST")
    assert server.names() == ("docs",)
    assert server.count("docs") == 3
    assert server.snapshots("docs") == (ServerSnapshot("a.snapshot", 5),)
    assert server.create_snapshot("docs") == ServerSnapshot("a.snapshot", 5)


def test_an_unknown_collection_does_not_exist_and_has_no_snapshots(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.replay("one-node", "collection, unknown", url=f"{URL}/collections/nosuch")
    qdrant.replay("one-node", "snapshots, unknown collection", url=f"{URL}/collections/nosuch/snapshots")
    assert not server.describe("nosuch").exists
    assert server.snapshots("nosuch") == ()


@pytest.mark.parametrize("lost", ["points/count", "aliases"])
def test_a_collection_that_is_deleted_meanwhile_does_not_exist(
    lost: str, qdrant: Answers, server: QdrantServer
) -> None:
    qdrant.replay("one-node", "collection", url=f"{URL}/collections/docs")
    qdrant.replay("one-node", "collection, unknown", url=f"{URL}/collections/docs/{lost}")
    qdrant.result({"count": 1}, url=f"{URL}/collections/docs/points/count", is_optional=True)
    assert not server.describe("docs").exists


@pytest.mark.parametrize("call", ["describe", "snapshots", "delete"])
def test_the_404_of_something_that_is_not_qdrant_means_nothing(
    call: str, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    """Or a wrong prefix would look as if every collection had been deleted."""
    qdrant.replay("one-node", "unknown route")
    with pytest.raises(QdrantError, match="404"):
        CALLS[call](server, tmp_path)


@pytest.mark.parametrize("found", [None, [], {}, {"config": []}, {"config": {"params": 1}}, {"config": {}}])
def test_a_description_of_another_shape_is_told_so(found: Any, qdrant: Answers, server: QdrantServer) -> None:
    qdrant.result(found, url=f"{URL}/collections/docs")
    qdrant.result({"count": 1}, method="POST")
    qdrant.result({"aliases": []}, url=f"{URL}/collections/docs/aliases")
    with pytest.raises(QdrantError, match="not one that this tool knows"):
        server.describe("docs")


def test_snapshots_are_described_as_listed(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.replay("one-node", "snapshots", url=f"{URL}/collections/docs/snapshots")
    (snapshot,) = server.snapshots("docs")
    assert snapshot == ServerSnapshot(
        name="docmind_images__34f9f8ac07251e60ac2ef6dbefe18874-2841235159689269-2026-11-21-01-52-32.snapshot",
        size=64512,
        checksum="0c3bb7b49ee02c73baad3f8c149419c8a6618eddd4504d4ca39e84aa3d8b62b5",
        created="2026-11-21T01:52:32",
    )


def test_a_server_without_checksums_and_times_gives_empty_ones(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.result([{"name": "a", "size": 1, "creation_time": None}, {"name": "b", "size": 2, "checksum": "AB"}])
    assert server.snapshots("docs") == (ServerSnapshot("a", 1), ServerSnapshot("b", 2, checksum="ab"))


def test_a_snapshot_is_created_waiting_for_its_end(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.replay("one-node", "snapshot create", method="POST")
    assert server.create_snapshot("docs").size == 131584
    (request,) = qdrant.asked()
    assert request.url.params["wait"] == "true"


def test_a_creation_that_is_only_accepted_is_an_error(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.replay("one-node", "snapshot create wait=false", method="POST")
    with pytest.raises(QdrantError, match="did not name it"):
        server.create_snapshot("docs")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b"])
def test_a_snapshot_name_that_is_no_file_name_is_refused(name: str, qdrant: Answers, server: QdrantServer) -> None:
    qdrant.result([{"name": name, "size": 1}], method="GET")
    qdrant.result({"name": name, "size": 1}, method="POST")
    with pytest.raises(QdrantError, match="not a plain file name"):
        server.snapshots("docs")
    with pytest.raises(QdrantError, match="not a plain file name"):
        server.create_snapshot("docs")


@pytest.mark.parametrize("label", ["delete", "delete missing", "snapshots of deleted"])
def test_deleting_succeeds_also_when_it_is_gone(label: str, qdrant: Answers, server: QdrantServer) -> None:
    qdrant.replay("one-node", label, method="DELETE")
    server.delete_snapshot("docs", "a.snapshot")
    (request,) = qdrant.asked()
    assert request.url.params["wait"] == "true"


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_key_where_one_is_wanted(call: Call, qdrant: Answers, keyless: QdrantServer, tmp_path: Path) -> None:
    qdrant.replay("api-key", "no key: collections")
    with pytest.raises(QdrantRefused, match="Qdrant wants an API key and none is set") as caught:
        call(keyless, tmp_path)
    assert "DOCMIND_DATABASE__QDRANT_API_KEY" in caught.value.hint


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_wrong_key(call: Call, qdrant: Answers, server: QdrantServer, tmp_path: Path) -> None:
    qdrant.replay("api-key", "wrong key: collections")
    with pytest.raises(QdrantRefused, match="the API key is wrong") as caught:
        call(server, tmp_path)
    assert "DOCMIND_DATABASE__QDRANT_API_KEY" in caught.value.hint


@pytest.mark.parametrize(("call", "doing"), [("create", "creating"), ("delete", "deleting")])
def test_a_read_only_key_cannot_write(
    call: str, doing: str, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.replay("api-key", f"read-only key: snapshot {call}")
    expected = f"the API key is read-only: {doing} a snapshot needs a key with manage access"
    with pytest.raises(QdrantRefused, match=expected):
        WRITES[call](server, tmp_path)


@pytest.mark.parametrize("call", READS.values(), ids=READS)
def test_a_key_that_may_not_even_read(call: Call, qdrant: Answers, server: QdrantServer, tmp_path: Path) -> None:
    qdrant.error(403, "Forbidden: Access to collection docs is required")
    with pytest.raises(QdrantRefused, match="Access to collection docs is required"):
        call(server, tmp_path)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_redirects_are_refused_and_not_followed(
    call: Call, status: int, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.give(status, headers={"location": "http://evil.example/"})
    with pytest.raises(QdrantError, match="redirect"):
        call(server, tmp_path)
    assert [request.url.host for request in qdrant.asked()] == ["localhost"]
    assert not list(tmp_path.iterdir())


def test_a_redirect_of_the_greeting_is_refused_too(httpx_mock: HTTPXMock, server: QdrantServer) -> None:
    httpx_mock.add_response(status_code=307, headers={"location": "https://evil.example/"})
    with pytest.raises(QdrantError, match="redirect"):
        server.version()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, "Service internal error: failed to create snapshot: No space left on device (os error 28)"),
        (507, "Insufficient storage"),
    ],
)
def test_a_full_disk_is_said_to_be_the_servers(status: int, words: str, qdrant: Answers, server: QdrantServer) -> None:
    qdrant.error(status, words)
    with pytest.raises(QdrantError, match="disk of the Qdrant server") as caught:
        server.create_snapshot("docs")
    assert words in str(caught.value)
    assert "free space where Qdrant" in caught.value.hint


@pytest.mark.parametrize("status", [400, 405, 408, 409, 422, 429, 500, 502, 503])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_other_answers_are_told_in_the_servers_words(
    call: Call, status: int, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.error(status, "Service internal error:\n\t something\x1b[2J odd " + "x" * 5000)
    with pytest.raises(QdrantError, match=f"answered {status}: Service internal error: something") as caught:
        call(server, tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("after", ["7", "Sat, 21 Nov 2026 01:52:31 GMT"])
def test_too_many_requests_with_a_time_to_retry(after: str, qdrant: Answers, server: QdrantServer) -> None:
    qdrant.error(429, "slow down", headers={"retry-after": after})
    with pytest.raises(QdrantError, match="answered 429"):
        server.names()


@pytest.mark.parametrize("body", [b"", b"<h1>Bad gateway</h1>", b"\xff\xfe\x00", b"[1]", b'{"status": "x"}'])
def test_errors_that_are_not_qdrants_json_are_told_as_they_are(
    body: bytes, qdrant: Answers, server: QdrantServer
) -> None:
    qdrant.give(502, content=body)
    with pytest.raises(QdrantError, match="answered 502: ") as caught:
        server.count("docs")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("call", ["names", "aliases", "count", "snapshots", "create", "peers"])
@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"result": {"count": "many"}}', b'{"result": 7}', b"{}"])
def test_an_answer_of_another_shape_is_no_traceback(
    call: str, body: bytes, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.give(content=body)
    if call == "peers" and body.startswith(b'{"result'):
        assert server.peers() == 1
        return
    with pytest.raises(QdrantError):
        CALLS[call](server, tmp_path)


# -- the key stays secret ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 403, 429, 500])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_server_that_repeats_the_key_does_not_get_it_told(
    call: Call, status: int, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    words = f"your key is {KEY}"
    envelope = {"status": {"error": words}, "result": {"count": words, "name": words}, "time": 0}
    qdrant.give(status, json=envelope, headers={"retry-after": "3"}, is_reusable=True)
    with pytest.raises(QdrantError) as caught:
        call(server, tmp_path)
        raise QdrantError("cluster answers of any shape mean one node")
    assert KEY not in told(caught.value)
    assert KEY not in repr(server)


def test_the_key_is_in_no_traceback_of_a_broken_connection(httpx_mock: HTTPXMock, server: QdrantServer) -> None:
    httpx_mock.add_exception(httpx.ReadError("[Errno 104] Connection reset by peer"))
    with pytest.raises(QdrantUnreachable) as caught:
        server.version()
    assert KEY not in told(caught.value)


# -- nobody answers ------------------------------------------------------------------------------

SILENCES = [
    (httpx.ConnectError("[Errno 111] Connection refused"), f"nothing answers at {URL}: connection refused"),
    (httpx.ConnectError("[Errno -2] Name or service not known"), "name or service not known"),
    (httpx.ConnectTimeout("timed out"), "within 10 s"),
    (httpx.ReadTimeout("timed out"), "nothing came for 60 s"),
    (httpx.ReadError("[Errno 104] Connection reset by peer"), "broke: connection reset by peer"),
    (httpx.RemoteProtocolError("Server disconnected without sending a response."), "server disconnected"),
    (httpx.ReadError(""), "broke: readError"),
]


@pytest.mark.parametrize(("error", "words"), SILENCES, ids=[words for _, words in SILENCES])
@pytest.mark.parametrize("call", ["describe", "count", "download", "delete"])
def test_silence_is_told_with_its_reason_and_what_to_do(
    call: str, error: Exception, words: str, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.mock.add_exception(error)
    with pytest.raises(QdrantUnreachable) as caught:
        CALLS[call](server, tmp_path)
    assert words in str(caught.value)
    assert "--no-qdrant-snapshot" in caught.value.hint
    assert caught.value.__cause__ is not None


def test_a_creation_says_how_long_it_waited(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.mock.add_exception(httpx.ReadTimeout("timed out"))
    with pytest.raises(QdrantUnreachable, match="nothing came for 3600 s"):
        server.create_snapshot("docs")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_signal_during_a_call_is_itself(call: Call, qdrant: Answers, server: QdrantServer, tmp_path: Path) -> None:
    """qdrant-client turns whatever is raised while it waits into its own exception."""
    qdrant.mock.add_exception(Interrupted(15))
    with pytest.raises(Interrupted) as caught:
        call(server, tmp_path)
    assert caught.value.exit_code == 143


UNANSWERED = """
import sys, time
from docmind_backup.errors import QdrantUnreachable
from docmind_backup.qdrant import connect
for call in ("version", "now", "names", "peers"):
    try:
        with connect(sys.argv[1], api_key="k") as server:
            getattr(server, call)()
    except QdrantUnreachable as error:
        print(error)
print("qdrant_client" in sys.modules)
"""


def test_a_server_that_is_down_is_told_without_importing_its_client() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, so nobody else's; not listening, so refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        ran = subprocess.run(
            [sys.executable, "-c", UNANSWERED, url], capture_output=True, text=True, check=True, env=_environment()
        )
    assert ran.stdout.splitlines() == [f"nothing answers at {url}: connection refused"] * 4 + ["False"]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_localhost_resolves_to_this_machine_and_nonsense_to_nothing() -> None:
    assert set(resolve("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r"."):
        resolve("127.0.0.1.invalid")


# -- bytes ---------------------------------------------------------------------------------------


def test_a_download_is_written_once_hashed_and_counted(qdrant: Answers, server: QdrantServer, tmp_path: Path) -> None:
    data, seen = lzma.decompress((RECORDINGS / "image.snapshot.xz").read_bytes()), list[int]()
    qdrant.give(content=data, headers=OCTETS)
    got = server.download("docs", "a.snapshot", tmp_path / "a", seen.append)
    assert got == Downloaded(64512, "0c3bb7b49ee02c73baad3f8c149419c8a6618eddd4504d4ca39e84aa3d8b62b5")
    assert (tmp_path / "a").read_bytes() == data
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o400
    assert sum(seen) == len(data)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/octet-stream; charset=binary"},
        {"content-type": "Application/Octet-Stream", "content-encoding": "identity"},
    ],
)
def test_harmless_headers_are_accepted(
    headers: dict[str, str], qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.give(content=b"tar", headers=headers)
    assert server.download("docs", "a.snapshot", tmp_path / "a", nothing).size == 3


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (OCTETS | {"content-encoding": "gzip"}, "compressed"),
        (OCTETS | {"content-encoding": "br"}, "compressed"),
        ({"content-type": "text/html"}, "text/html"),
        ({"content-type": "application/json"}, "application/json"),
        ({}, "(none)"),
    ],
)
def test_what_cannot_be_the_snapshots_own_bytes_is_refused(
    headers: dict[str, str], said: str, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.give(content=gzip.compress(b"tar"), headers=headers)
    with pytest.raises(QdrantError) as caught:
        server.download("docs", "a.snapshot", tmp_path / "a", nothing)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["download missing", "download unknown collection"])
def test_a_snapshot_that_is_gone_is_told_in_the_servers_words(
    label: str, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.replay("one-node", label)
    with pytest.raises(QdrantError, match="Not found"):
        server.download("docs", "a.snapshot", tmp_path / "a", nothing)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("announced", "said"), [("2", "more than the 2 bytes"), ("4", "3 of the 4 bytes")])
def test_a_body_of_another_length_than_announced_is_refused(
    announced: str, said: str, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.give(content=b"tar", headers=OCTETS | {"content-length": announced})
    with pytest.raises(QdrantError, match=said):
        server.download("docs", "a.snapshot", tmp_path / "a", nothing)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_left_alone(qdrant: Answers, server: QdrantServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    qdrant.give(content=b"tar", headers=OCTETS, is_reusable=True)
    for name in ("a", "link"):
        with pytest.raises(FileExistsError):
            server.download("docs", "a.snapshot", tmp_path / name, nothing)
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), Interrupted(2)])
def test_whatever_ends_a_download_leaves_no_file_and_is_told_as_it_is(
    error: BaseException, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    """A full disk here is not a failure of Qdrant."""

    def fail(_size: int) -> None:
        raise error

    qdrant.give(content=b"tar", headers=OCTETS)
    with pytest.raises(type(error)) as caught:
        server.download("docs", "a.snapshot", tmp_path / "a", fail)
    assert caught.value is error
    assert not list(tmp_path.iterdir())


# -- real sockets --------------------------------------------------------------------------------


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as standin:
        standin.load_snapshot("docs", lzma.decompress((RECORDINGS / "image.snapshot.xz").read_bytes()))
        yield standin


def test_proxies_of_the_environment_receive_nothing(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandIn() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with httpx.Client() as trusting:  # the trap is armed: this one falls into it
            trusting.get(f"{standin.url}/")
        assert len(proxy.requests) == 1
        with connect(standin.url, api_key=KEY) as server:
            made = server.create_snapshot("docs")
            server.describe("docs")
            server.download("docs", made.name, tmp_path / "a", nothing)
            server.delete_snapshot("docs", made.name)
        assert len(proxy.requests) == 1
    assert {request.headers["api-key"] for request in standin.requests} == {KEY}


def test_a_netrc_file_is_not_read(standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with connect(standin.url) as server:
        server.names()
    assert all("authorization" not in request.headers for request in standin.requests)


def test_a_prefix_belongs_to_every_path(standin: StandIn) -> None:
    with connect(f"{standin.url}/behind/a/proxy") as server:
        for path in ("/", "/collections"):
            standin.faults.answer("GET", f"^/behind/a/proxy{path}$", 200, {}, b'{"version": "1", "result": null}')
        with pytest.raises(QdrantError, match="not one that this tool knows"):
            server.names()
    assert [request.path for request in standin.requests] == ["/behind/a/proxy/", "/behind/a/proxy/collections"]


@pytest.mark.parametrize(
    "fault",
    [Drop(0), Drop(1000), Drop(1000, reset=True), Drop(64511), WrongLength(5), ChunkedCut(1000)],
    ids=repr,
)
def test_a_connection_that_breaks_leaves_no_file(fault: Any, standin: StandIn, tmp_path: Path) -> None:
    with connect(standin.url) as server:
        made = server.create_snapshot("docs")
        standin.faults.downloads.append(fault)
        with pytest.raises(QdrantUnreachable, match="broke"):
            server.download("docs", made.name, tmp_path / "a", nothing)
        assert not list(tmp_path.iterdir())
        server.download("docs", made.name, tmp_path / "a", nothing)


@pytest.mark.parametrize("fault", [ChunkedCut(1000, clean=True), CloseDelimited(1000)], ids=repr)
def test_an_end_without_a_length_is_reported_as_it_came(fault: Any, standin: StandIn, tmp_path: Path) -> None:
    """Nothing in such an answer says that it is short: the caller compares with what the server described."""
    with connect(standin.url) as server:
        made = server.create_snapshot("docs")
        standin.faults.downloads.append(fault)
        got = server.download("docs", made.name, tmp_path / "a", nothing)
    assert got.size == 1000
    assert got.sha256 != made.checksum


def test_a_download_that_stalls_is_given_up(standin: StandIn, tmp_path: Path) -> None:
    with connect(standin.url, stall_timeout_s=0.2) as server:
        made = server.create_snapshot("docs")
        standin.faults.downloads.append(Stall(1000, Event()))
        with pytest.raises(QdrantUnreachable, match=r"nothing came for 0\.2 s"):
            server.download("docs", made.name, tmp_path / "a", nothing)
    assert not list(tmp_path.iterdir())
