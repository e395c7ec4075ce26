"""What goes out to Qdrant: paths, headers, timeouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.qdrant.answers import (
    CALLS,
    KEY,
    OCTETS,
    URL,
    Answers,
    Call,
    nothing,
)

from docmind_backup.errors import QdrantError
from docmind_backup.qdrant import QdrantServer, connect


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
@pytest.mark.parametrize("call", ["describe", "count", "snapshots", "create", "delete", "download"])
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
