"""What Qdrant's answers become."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_httpx import HTTPXMock
from tests.qdrant.answers import (
    CALLS,
    URL,
    Answers,
    recorded,
)

from docmind_backup.core.model import Placement
from docmind_backup.core.server import Point, ServerSnapshot
from docmind_backup.errors import QdrantError
from docmind_backup.qdrant import QdrantServer


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


def test_where_shards_lie_is_what_a_real_node_said(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.replay("two-nodes", "collection cluster", url=f"{URL}/collections/c2/cluster")
    assert server.placement("c2") == Placement((1,), (0,))


# -- points --------------------------------------------------------------------------------------

ARTIFACT = "image_artifact_id"


def asks_from(offset: int | str | None) -> dict[str, Any]:
    body = {"limit": 1000, "with_payload": {"include": [ARTIFACT]}, "with_vector": False}
    return body if offset is None else {**body, "offset": offset}


def test_points_come_page_by_page_as_the_real_server_sent_them(qdrant: Answers, server: QdrantServer) -> None:
    where = {"url": f"{URL}/collections/images/points/scroll", "method": "POST"}
    qdrant.replay("one-node", "scroll", match_json=asks_from(None), **where)
    qdrant.result({"points": [{"id": 2, "payload": None}], "next_page_offset": None}, match_json=asks_from(2), **where)

    first, second = server.scroll("images", [ARTIFACT])

    said = recorded("one-node", "scroll")["json"]["result"]["points"]
    assert first == tuple(Point(each["id"], each["payload"]) for each in said)
    assert second == (Point(2, {}),)


def test_a_sample_and_whole_points_are_what_the_real_server_sent(qdrant: Answers, server: QdrantServer) -> None:
    said = recorded("one-node", "scroll image")["json"]["result"]["points"]
    asks = {"limit": 7, "with_payload": True, "with_vector": True}
    qdrant.replay("one-node", "scroll image", match_json=asks)
    qdrant.replay("one-node", "scroll image", match_json={**asks, "limit": 100, "with_vector": False})

    sample = server.sample("images", 7)
    ((*whole,),) = server.scroll("images", None)

    assert sample == tuple(Point(each["id"], each["payload"], ("siglip",)) for each in said)
    assert [(point.id, point.payload) for point in whole] == [(each["id"], each["payload"]) for each in said]


def test_numbers_come_before_uuids_and_a_point_may_go_between_two_pages(qdrant: Answers, server: QdrantServer) -> None:
    ids = ["00000000-0000-4000-8000-000000000000", "f0000000-0000-4000-8000-000000000000"]
    qdrant.result({"points": [{"id": 2**64 - 1}], "next_page_offset": ids[0]}, method="POST")
    qdrant.result({"points": [{"id": ids[1]}], "next_page_offset": None}, method="POST", match_json=asks_from(ids[0]))

    assert [point.id for page in server.scroll("images", [ARTIFACT]) for point in page] == [2**64 - 1, ids[1]]


def test_all_that_is_left_may_be_gone_by_the_next_page(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.result({"points": [{"id": 1}], "next_page_offset": 2}, method="POST")
    qdrant.result({"points": [], "next_page_offset": None}, method="POST")

    assert [len(page) for page in server.scroll("images", [ARTIFACT])] == [1, 0]


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        {},
        {"points": [], "next_page_offset": 0},
        {"points": [{"id": 5}], "next_page_offset": 5},
        {"points": [{"id": 5}], "next_page_offset": 4},
        {"points": [{"id": "f0000000-0000-4000-8000-000000000000"}], "next_page_offset": 9},
        {"points": [{"id": 5}, {"id": 5}], "next_page_offset": None},
        {"points": [{"id": 6}, {"id": 5}], "next_page_offset": None},
        {"points": [{"id": 5, "payload": 7}], "next_page_offset": None},
        {"points": [{"id": None}], "next_page_offset": None},
        {"points": [{"id": True}], "next_page_offset": None},
        {"points": [{"id": 1.5}], "next_page_offset": None},
        {"points": [5], "next_page_offset": None},
        {"points": [{"id": 5}], "next_page_offset": {}},
    ],
)
def test_a_page_that_leads_nowhere_or_is_none_ends_the_asking(
    qdrant: Answers, server: QdrantServer, result: Any
) -> None:
    qdrant.result(result, method="POST")
    with pytest.raises(QdrantError, match="not one that this tool knows"):
        list(server.scroll("images", [ARTIFACT]))


def test_a_page_that_begins_before_where_it_was_asked_to_ends_the_asking(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.result({"points": [{"id": 5}], "next_page_offset": 7}, method="POST")
    qdrant.result({"points": [{"id": 6}], "next_page_offset": 8}, method="POST")
    with pytest.raises(QdrantError, match="not one that this tool knows"):
        list(server.scroll("images", [ARTIFACT]))


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, b""])
def test_a_page_that_is_no_json_ends_the_asking(qdrant: Answers, server: QdrantServer, body: bytes) -> None:
    qdrant.give(content=body, method="POST")
    with pytest.raises(QdrantError, match="not one that this tool knows"):
        list(server.scroll("images", [ARTIFACT]))


def test_an_endless_page_is_not_read_to_its_end(
    qdrant: Answers, server: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docmind_backup.qdrant.MAX_PAGE", 1000)
    qdrant.give(content=b" " * 1001, method="POST")
    with pytest.raises(QdrantError, match="more than 1,000 bytes"):
        list(server.scroll("images", [ARTIFACT]))


def test_points_of_an_unknown_collection_are_an_error(qdrant: Answers, server: QdrantServer) -> None:
    qdrant.error(404, "Not found: Collection `nosuch` doesn't exist!", method="POST")
    with pytest.raises(QdrantError, match="doesn't exist"):
        list(server.scroll("nosuch", [ARTIFACT]))


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
