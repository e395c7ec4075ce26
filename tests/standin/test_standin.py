"""The stand-in does what tests rely on: genuine snapshots, a working qdrant-client, honest faults."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any
from urllib.parse import quote

import httpx
import pytest

pytest.importorskip("qdrant_edge")

from tests.standin import (
    ChunkedCut,
    CloseDelimited,
    Drop,
    Flip,
    ForcedGzip,
    HtmlPage,
    Stall,
    StandIn,
    WrongLength,
)
from tests.standin.faults import DownloadFault

UUID = "0ee72ce4-6ad0-4c3b-a1a2-7b8a3a4d0a11"
NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def point(number: int | str, **payload: Any) -> dict[str, Any]:
    return {
        "id": number,
        "vector": {"text-dense": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]},
        "payload": payload,
    }


POINTS = [*(point(number, page=number) for number in range(24)), point(UUID, page=24)]


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(clock=lambda: NOON) as running:
        running.create_collection("docs", POINTS, metadata={"owner": "text"}, payload_indexes={"page": "integer"})
        yield running


@pytest.fixture
def client(server: StandIn) -> Iterator[httpx.Client]:
    headers = {"accept-encoding": "identity"}
    with httpx.Client(base_url=server.url, trust_env=False, headers=headers, timeout=30) as opened:
        yield opened


def make_snapshot(client: httpx.Client) -> dict[str, Any]:
    return client.post("/collections/docs/snapshots").json()["result"]


def download(client: httpx.Client, name: str) -> httpx.Response:
    return client.get(f"/collections/docs/snapshots/{name}")


def test_a_snapshot_restores_to_the_same_points(server: StandIn, client: httpx.Client) -> None:
    made = make_snapshot(client)
    data = download(client, made["name"]).content

    response = client.post("/collections/again/snapshots/upload", files={"snapshot": ("a.snapshot", data)})

    assert response.json()["result"] is True
    assert hashlib.sha256(data).hexdigest() == made["checksum"]
    assert server.points("again") == server.points("docs")
    again = client.get("/collections/again").json()["result"]
    assert again["config"]["metadata"] == {"owner": "text"}
    assert again["payload_schema"] == {"page": {"data_type": "integer", "points": 25}}


def test_holes_cost_nothing_and_tarfile_reads_them(client: httpx.Client) -> None:
    data = download(client, make_snapshot(client)["name"]).content

    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        sizes = {member.name: member.size for member in archive}

    assert len(data) < 200_000
    assert sizes["0/wal/open-1"] == 32 * 1024 * 1024


def test_a_page_of_a_scroll_leads_to_the_next(client: httpx.Client) -> None:
    seen: list[int | str] = []
    offset = None
    while seen == [] or offset is not None:
        page = client.post("/collections/docs/points/scroll", json={"limit": 10, "offset": offset}).json()["result"]
        seen += [row["id"] for row in page["points"]]
        offset = page["next_page_offset"]

    assert seen == [*range(24), UUID]


def scrolled(client: httpx.Client, **body: Any) -> list[Any]:
    return client.post("/collections/docs/points/scroll", json=body).json()["result"]["points"]


def test_a_page_begins_at_the_next_point_when_the_one_it_was_asked_from_is_gone(
    client: httpx.Client, server: StandIn
) -> None:
    server.delete_points("docs", [5, 23])

    assert [row["id"] for row in scrolled(client, limit=2, offset=5)] == [6, 7]
    assert [row["id"] for row in scrolled(client, limit=2, offset=23)] == [UUID]


@pytest.mark.parametrize("selector", [["doc_id"], {"include": ["doc_id", "nosuch"]}])
def test_only_the_keys_that_were_asked_for_come(client: httpx.Client, selector: Any) -> None:
    assert all(set(row["payload"]) <= {"doc_id"} for row in scrolled(client, limit=9, with_payload=selector))
    assert all("vector" not in row for row in scrolled(client, limit=9, with_payload=selector))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_qdrant_client_works(server: StandIn) -> None:
    qdrant = pytest.importorskip("qdrant_client")
    models = qdrant.models
    remote = qdrant.QdrantClient(url=server.url, trust_env=False, check_compatibility=False)
    dense = models.VectorParams(size=4, distance=models.Distance.DOT)

    remote.create_collection("new", vectors_config={"v": dense})
    remote.upsert("new", [models.PointStruct(id=UUID, vector={"v": [1, 2, 3, 4]}, payload={"a": "b"})])
    made = remote.create_snapshot("new")

    assert remote.info().version == "1.18.3"
    assert remote.cluster_status().status == "disabled"
    assert remote.count("new", exact=True).count == 1
    assert remote.get_collection("new").points_count == 1
    assert remote.get_aliases().aliases == []
    assert remote.list_snapshots("new") == [made]
    assert remote.delete_snapshot("new", made.name) is True
    remote.close()


def test_two_creates_in_one_second_share_a_name(server: StandIn, client: httpx.Client) -> None:
    first = make_snapshot(client)
    server.upsert("docs", [point(100)])
    second = make_snapshot(client)

    assert first["name"] == second["name"] == "docs-2841235159689269-2026-11-21-12-00-00.snapshot"
    assert first["checksum"] != second["checksum"]
    assert len(server.snapshots("docs")) == 1


def test_files_of_a_deleted_collection_reappear_with_it(server: StandIn, client: httpx.Client) -> None:
    made = make_snapshot(client)
    server.delete_collection("docs")

    assert client.get("/collections/docs/snapshots").status_code == 404
    assert list(server.snapshots("docs")) == [made["name"]]

    server.create_collection("docs")

    assert client.get("/collections/docs/snapshots").json()["result"] == [made]


def test_a_create_finishes_though_its_client_has_gone(server: StandIn, client: httpx.Client) -> None:
    server.faults.create_gate = gate = Event()
    arrived = Event()
    server.faults.before("POST", "/snapshots$", arrived.set)

    with pytest.raises(httpx.ReadTimeout):
        client.post("/collections/docs/snapshots", timeout=0.05)
    assert arrived.wait(10)
    assert server.snapshots("docs") == {}
    gate.set()
    server.close()  # joins the thread that still works on it

    assert len(server.snapshots("docs")) == 1


def test_an_accepted_create_is_made_when_the_gate_opens(server: StandIn, client: httpx.Client) -> None:
    server.faults.create_gate = gate = Event()

    assert client.post("/collections/docs/snapshots?wait=false").status_code == 202
    assert server.snapshots("docs") == {}
    gate.set()
    server.close()

    assert len(server.snapshots("docs")) == 1


def test_an_answer_can_wait_while_the_snapshot_is_listed(server: StandIn, client: httpx.Client) -> None:
    server.faults.answer_gate = gate = Event()
    answers: list[dict[str, Any]] = []
    creating = Thread(target=lambda: answers.append(make_snapshot(client)))
    creating.start()

    while not (listed := client.get("/collections/docs/snapshots").json()["result"]):
        assert creating.is_alive()
    assert answers == []
    gate.set()
    creating.join()

    assert answers == listed


def test_another_client_can_replace_ours_in_the_same_second(server: StandIn, client: httpx.Client) -> None:
    server.faults.replace_after_create = 1

    made = make_snapshot(client)
    [listed] = client.get("/collections/docs/snapshots").json()["result"]

    assert listed["name"] == made["name"]
    assert listed["checksum"] != made["checksum"]
    assert hashlib.sha256(download(client, made["name"]).content).hexdigest() == listed["checksum"]


def test_points_can_change_while_a_snapshot_is_made(server: StandIn, client: httpx.Client) -> None:
    server.faults.before("POST", "/snapshots$", lambda: server.upsert("docs", [point(100)]))

    make_snapshot(client)

    assert server.count("docs") == 26


@pytest.mark.parametrize("fault", [Drop(1000), Drop(0), Drop(1000, reset=True), WrongLength(7), ChunkedCut(1000)])
def test_a_download_that_breaks_off_is_an_error_to_httpx(
    server: StandIn, client: httpx.Client, fault: DownloadFault
) -> None:
    made = make_snapshot(client)
    server.faults.downloads = [fault]

    with pytest.raises(httpx.TransportError):
        download(client, made["name"])

    assert len(download(client, made["name"]).content) == made["size"]


@pytest.mark.parametrize("fault", [ChunkedCut(1000, clean=True), CloseDelimited(1000)])
def test_a_cut_that_no_client_can_see(server: StandIn, client: httpx.Client, fault: DownloadFault) -> None:
    made = make_snapshot(client)
    server.faults.every_download = fault

    assert len(download(client, made["name"]).content) == 1000


def test_a_length_that_is_too_small_hides_the_end(server: StandIn, client: httpx.Client) -> None:
    made = make_snapshot(client)
    server.faults.downloads = [WrongLength(-7)]

    assert len(download(client, made["name"]).content) == made["size"] - 7


def test_a_flipped_bit_keeps_the_length(server: StandIn, client: httpx.Client) -> None:
    made = make_snapshot(client)
    server.faults.downloads = [Flip(5)]

    data = download(client, made["name"]).content

    assert len(data) == made["size"]
    assert hashlib.sha256(data).hexdigest() != made["checksum"]


def test_a_stalled_download_goes_on_when_told(server: StandIn, client: httpx.Client) -> None:
    made = make_snapshot(client)
    server.faults.downloads = [Stall(1000, gate := Event())]

    with client.stream("GET", f"/collections/docs/snapshots/{made['name']}") as response:
        pieces = response.iter_raw()
        first = next(pieces)
        assert len(first) == 1000
        gate.set()
        assert len(first) + sum(map(len, pieces)) == made["size"]


def test_gzip_can_be_forced_and_html_served(server: StandIn, client: httpx.Client) -> None:
    made = make_snapshot(client)
    server.faults.downloads = [ForcedGzip(), HtmlPage(), None]

    packed, page, well = (download(client, made["name"]) for _ in range(3))

    assert packed.headers["content-encoding"] == "gzip"
    assert "content-length" not in packed.headers
    assert page.headers["content-type"].startswith("text/html")
    assert len(well.content) == made["size"]


def test_checksums_can_be_wrong_or_missing(server: StandIn, client: httpx.Client) -> None:
    server.faults.checksum = "0" * 64
    assert make_snapshot(client)["checksum"] == "0" * 64

    server.faults.no_checksum = True
    assert "checksum" not in client.get("/collections/docs/snapshots").json()["result"][0]


def test_answers_can_be_put_in_the_way(server: StandIn, client: httpx.Client) -> None:
    server.faults.answer("GET", "^/collections$", 503, {"retry-after": "1"}, b"busy", times=2)
    server.faults.refuse("POST", "/snapshots$", 500, "No space left on device (os error 28)")
    server.faults.redirect("GET", "^/aliases$", "http://example.invalid/")
    server.faults.hang_up("GET", "^/cluster$")
    server.faults.delete_fails = 1

    assert [client.get("/collections").status_code for _ in range(3)] == [503, 503, 200]
    full = client.post("/collections/docs/snapshots")
    assert (full.status_code, full.json()["status"]["error"][:8]) == (500, "No space")
    assert client.get("/aliases").headers["location"] == "http://example.invalid/"
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/cluster")
    assert client.get("/cluster").status_code == 200
    name = make_snapshot(client)["name"]
    deletions = [client.delete(f"/collections/docs/snapshots/{name}").status_code for _ in range(2)]
    assert deletions == [500, 200]


def test_requests_are_on_record(server: StandIn, client: httpx.Client) -> None:
    client.post("/collections/docs/points/count?timeout=1", json={"exact": True}, headers={"Api-Key": "k"})

    request = server.requests[-1]

    assert (request.method, request.path, request.query) == (
        "POST",
        "/collections/docs/points/count",
        "timeout=1",
    )
    assert (request.headers["api-key"], request.body_size, request.status) == ("k", 14, 200)


@pytest.mark.parametrize("char", '<>:"/\\|?*\0\x1f', ids=lambda char: f"{ord(char):x}")
def test_a_name_with_what_no_collection_may_have_is_refused(client: httpx.Client, char: str) -> None:
    refused = client.put(
        f"/collections/{quote(f'a{char}b', safe='')}", json={"vectors": {"size": 1, "distance": "Dot"}}
    )

    why = f'[collection_name: collection name cannot contain "{char}" char]'
    assert refused.status_code == 422
    assert refused.json()["status"]["error"] == f"Validation error in path parameters: {why}"


def test_an_alias_is_no_collection(server: StandIn, client: httpx.Client) -> None:
    """It is neither deleted as one, nor can another alias lead to it."""
    server.create_alias("live", "docs")
    action = {"create_alias": {"collection_name": "live", "alias_name": "second"}}

    deleted = client.delete("/collections/live")
    led = client.post("/collections/aliases", json={"actions": [action]})

    assert (deleted.status_code, deleted.json()["result"]) == (200, False)
    assert led.status_code == 404
    assert led.json()["status"]["error"] == "Not found: Collection `live` doesn't exist!"
    assert (server.collections(), server.state.aliases) == (["docs"], {"live": "docs"})


def test_the_date_may_lag_behind_the_names(server: StandIn, client: httpx.Client) -> None:
    server.faults.date_lag_s = 1

    made = client.post("/collections/docs/snapshots")

    assert made.headers["date"] == "Sat, 21 Nov 2026 11:59:59 GMT"
    assert made.json()["result"]["name"].endswith("-2026-11-21-12-00-00.snapshot")


def test_someone_elses_snapshot_is_listed(server: StandIn, client: httpx.Client) -> None:
    server.put_snapshot("docs", "theirs.snapshot", b"bytes", age_s=3600)

    [row] = client.get("/collections/docs/snapshots").json()["result"]

    assert row == {
        "name": "theirs.snapshot",
        "creation_time": "2026-11-21T11:00:00",
        "size": 5,
        "checksum": hashlib.sha256(b"bytes").hexdigest(),
    }


def test_many_clients_at_once(server: StandIn) -> None:
    answers: list[int] = []

    def ask() -> None:
        answers.append(httpx.get(f"{server.url}/collections", trust_env=False).status_code)

    threads = [Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [200] * 20


def test_a_bug_in_the_stand_in_fails_the_test() -> None:
    server = StandIn()
    server.faults.before("GET", "/", lambda: 1 // 0)
    server.__enter__()
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url, trust_env=False)

    with pytest.raises(AssertionError, match="stand-in failed"):
        server.__exit__(None, None, None)
