"""What core/server.py's RestoreTarget promises, asked of the stand-in and of a real Qdrant alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

pytest.importorskip("qdrant_edge")

from tests.snapshots import recorded
from tests.standin import StandIn

from docmind_backup.core.qdrant_rest import Refusals, alias_actions, collection_path
from docmind_backup.errors import QdrantError, QdrantRefused, QdrantUnreachable
from docmind_backup.qdrant import QdrantServer, connect

REAL_URL = os.environ.get("DOCMIND_TEST_QDRANT_URL", "")
REAL_KEY = os.environ.get("DOCMIND_TEST_QDRANT_API_KEY", "")
"""Read now: no test sees the settings of the shell."""
FILE = "docmind-backup-test.snapshot"


@pytest.fixture(params=["standin", "real"])
def server(request: pytest.FixtureRequest) -> Iterator[QdrantServer]:
    if request.param == "standin":
        with StandIn(api_key="manage-key") as standin, connect(standin.url, api_key="manage-key") as made:
            yield made
    elif REAL_URL:
        with connect(REAL_URL, api_key=REAL_KEY) as made:
            yield made
    else:
        pytest.skip("DOCMIND_TEST_QDRANT_URL names no real Qdrant to ask")


@pytest.fixture
def name(server: QdrantServer) -> Iterator[str]:
    """Nothing has it, and nothing of it is left."""
    made = f"restore target {uuid4().hex[:12]}"
    yield made
    if made not in server.names():
        server.create_collection(made)
    for snapshot in server.snapshots(made):
        server.delete_snapshot(made, snapshot.name)
    server.delete_collection(made)


@pytest.fixture
def other(server: QdrantServer, name: str) -> Iterator[str]:
    """Another one, empty."""
    made = f"{name} other"
    server.create_collection(made)
    yield made
    server.delete_collection(made)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.snapshot"
    path.write_bytes(recorded("text"))
    return path


def upload(server: QdrantServer, name: str, path: Path, sha256: str = "", told: list[int] | None = None) -> None:
    digest = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    server.upload_snapshot(name, path, file=FILE, sha256=digest, on_bytes=(told if told is not None else []).append)


def test_an_upload_makes_the_collection_and_leaves_its_file(server: QdrantServer, name: str, text: Path) -> None:
    told: list[int] = []

    upload(server, name, text, told=told)

    found = server.describe(name)
    assert (found.points, list(found.payload_schema), found.aliases) == (25, ["doc_id"], ())
    assert found.metadata["docmind_owner"] == "text"
    assert [(one.name, one.size, one.checksum) for one in server.snapshots(name)] == [(FILE, sum(told), "")]
    assert sum(told) == text.stat().st_size


def test_a_sample_is_the_first_points_with_all_that_they_have(server: QdrantServer, name: str, text: Path) -> None:
    upload(server, name, text)

    sample, whole = server.sample(name, 3), [point for page in server.scroll(name, None) for point in page]

    assert [(point.id, point.payload) for point in sample] == [(point.id, point.payload) for point in whole[:3]]
    assert {point.vectors for point in sample} == {("text-dense", "text-sparse")}
    assert all("doc_id" in point.payload and len(point.payload) > 1 for point in sample)
    assert len(whole) == len(server.sample(name, 100)) == 25


def test_a_wrong_checksum_is_said_in_our_words_and_makes_nothing(server: QdrantServer, name: str, text: Path) -> None:
    with pytest.raises(QdrantError, match="is not the snapshot that was sent"):
        upload(server, name, text, "0" * 64)

    assert name not in server.names()


def test_what_it_cannot_unpack_is_said_without_its_own_paths(server: QdrantServer, name: str, text: Path) -> None:
    text.write_bytes(recorded("text")[:65792])

    with pytest.raises(QdrantError, match="could not restore the snapshot") as raised:
        upload(server, name, text)

    assert "/qdrant/" not in str(raised.value)
    assert "failed to unpack `0/segments/" in str(raised.value)
    assert name not in server.names()


def test_the_file_of_a_failed_upload_is_reached_through_an_empty_collection(
    server: QdrantServer, name: str, text: Path
) -> None:
    text.write_bytes(recorded("text")[:65792])
    with pytest.raises(QdrantError):
        upload(server, name, text)
    assert server.snapshots(name) == ()

    server.create_collection(name)
    assert [one.name for one in server.snapshots(name)] == [FILE]
    server.delete_snapshot(name, FILE)
    server.delete_collection(name)
    server.delete_collection(name)

    server.create_collection(name)
    assert server.snapshots(name) == ()


def test_a_collection_that_is_there_is_not_made_again(server: QdrantServer, name: str) -> None:
    server.create_collection(name)
    with pytest.raises(QdrantError, match="already exists"):
        server.create_collection(name)


def test_aliases_are_set_moved_and_taken_away_in_one_step(server: QdrantServer, name: str, other: str) -> None:
    one, two = f"{name} one", f"{name} two"
    server.create_collection(name)
    server.set_aliases({one: name, two: name})
    server.set_aliases({one: other, two: None, f"{name} never": None})

    now = server.aliases()
    assert (now[one], two in now) == (other, False)
    with pytest.raises(QdrantError, match="already exists"):
        server.set_aliases({name: other})
    server.delete_collection(other)
    assert one not in server.aliases()


# -- what needs a server that misbehaves -------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 507])
def test_a_full_disk_of_the_server_is_called_that(status: int, text: Path) -> None:
    body = b'{"status":{"error":"Service internal error: No space left on device (os error 28)"},"time":0}'
    with StandIn() as standin, connect(standin.url) as server:
        standin.faults.answer("POST", "/upload$", status, {"content-type": "application/json"}, body)
        with pytest.raises(QdrantError, match="the disk of the Qdrant server"):
            upload(server, "docs", text)


def test_a_read_only_key_is_called_that(text: Path) -> None:
    with StandIn(api_key="k", read_only_key="r") as standin, connect(standin.url, api_key="r") as server:
        for change in (
            lambda: upload(server, "docs", text),
            lambda: server.create_collection("docs"),
            lambda: server.delete_collection("docs"),
            lambda: server.set_aliases({"live": "docs"}),
        ):
            with pytest.raises(QdrantRefused, match="read-only"):
                change()


def test_a_redirect_is_not_followed_with_the_key(text: Path) -> None:
    with StandIn() as elsewhere, StandIn(api_key="k") as standin, connect(standin.url, api_key="k") as server:
        standin.faults.redirect("POST", "/upload$", f"{elsewhere.url}/collections/docs/snapshots/upload")
        with pytest.raises(QdrantError, match="answers with a redirect"):
            upload(server, "docs", text)
        assert not elsewhere.requests


def test_an_upload_without_an_answer_is_silence_not_a_refusal(text: Path) -> None:
    with StandIn() as standin, connect(standin.url) as server:
        standin.faults.hang_up("POST", "/upload$", served=True)
        with pytest.raises(QdrantUnreachable, match="the connection to Qdrant"):
            upload(server, "docs", text)
        assert server.count("docs") == 25


def test_an_upload_to_an_alias_overwrites_the_collection_behind_it(text: Path) -> None:
    """Seen on 1.18.3; why nothing is ever uploaded to a name that is an alias."""
    with StandIn() as standin, connect(standin.url) as server:
        standin.load_snapshot("docs", recorded("text"))
        standin.delete_points("docs", [1, 2])
        standin.create_alias("live", "docs")
        upload(server, "live", text)
        assert server.count("docs") == 25
        assert server.snapshots("docs") == ()
        assert list(standin.snapshots("live")) == [FILE]


def test_a_new_collection_with_custom_sharding_gets_no_points(tmp_path: Path) -> None:
    """Recorded from a cluster: 200, and none of the points."""
    path = tmp_path / "custom.snapshot"
    path.write_bytes(recorded("custom"))
    with StandIn(peers=2) as standin, connect(standin.url) as server:
        upload(server, "cs2", path)
        assert server.count("cs2") == 0


def test_only_what_differs_is_asked_of_the_aliases() -> None:
    now = {"a": "one", "b": "two"}

    assert alias_actions(now, {"a": "one", "c": None}) == []
    assert alias_actions(now, {"a": "two", "b": None, "c": "one"}) == [
        {"delete_alias": {"alias_name": "a"}},
        {"create_alias": {"collection_name": "two", "alias_name": "a"}},
        {"delete_alias": {"alias_name": "b"}},
        {"create_alias": {"collection_name": "one", "alias_name": "c"}},
    ]


def test_the_key_is_in_no_words_of_an_upload() -> None:
    said = Refusals("http://q:6333", "s3cret").of_upload(500, b"Service internal error: s3cret")

    assert "s3cret" not in str(said)


def test_the_recorded_names_are_reached(server: QdrantServer, name: str) -> None:
    """The path is quoted: a name with a space is one name."""
    assert "%20" in collection_path(name)
    server.create_collection(name)
    assert name in server.names()
    assert httpx.URL(server.url + collection_path(name)).path.endswith(name)
