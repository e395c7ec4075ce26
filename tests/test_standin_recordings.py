"""The stand-in answers as the real Qdrant 1.18.3 did: every recorded exchange is sent again and compared.

Request, clock, peer id and the two genuine snapshots are those of the recording, so answers are compared
value by value. Not comparable, and masked: `time`, `operation_id`, ETag values, the random end of the
server's temporary folders, the compressed size, and size and checksum of snapshots that were not recorded.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("qdrant_edge")

from tests.standin import StandIn, multipart

RECORDINGS = Path(__file__).parent / "data" / "recordings"
TEXT_COLLECTION = "docmind_docs__34f9f8ac07251e60ac2ef6dbefe18874"
IMAGE_COLLECTION = "docmind_images__34f9f8ac07251e60ac2ef6dbefe18874"
API_KEY, READ_ONLY_KEY = "secret-key-1", "read-only-key"
JUNK = b"this is no tar archive".ljust(1100, b".")

NEVER_SENT = {
    "one-node.json": {
        "download, br": "the tool offers identity only, and only gzip can be compressed here",
        "download, zstd": "as br",
        "download, gzip, deflate, br, zstd": "as br",
        "full snapshot": "restorable only at the start of a server",
        "full snapshots": "as full snapshot",
        "shard snapshot": "the tool copies collections",
        "shard snapshots": "as shard snapshot",
        "shard stream": "as shard snapshot",
        "issues": "a page of the web UI",
    },
    "api-key.json": {},
    "two-nodes.json": {"everything up to the single node": "this stand-in is one node"},
}


def snapshot_bytes(name: str) -> bytes:
    return lzma.decompress((RECORDINGS / f"{name}.snapshot.xz").read_bytes())


def points(name: str) -> list[dict[str, Any]]:
    return json.loads((RECORDINGS / f"{name}.points.json").read_bytes())


TEXT, IMAGE = snapshot_bytes("text"), snapshot_bytes("image")
GENUINE = {hashlib.sha256(data).hexdigest() for data in (TEXT, IMAGE)}

UPLOADS = {
    "upload, truncated": ("snapshot", "up.snapshot", TEXT[:65792]),
    "upload, junk": ("snapshot", "up.snapshot", JUNK),
    "upload, empty": ("snapshot", "up.snapshot", b""),
    "upload, wrong field": ("file", "up.snapshot", TEXT),
    "upload, filename with path": ("snapshot", "../../evil.snapshot", TEXT),
    "upload, same filename twice": ("snapshot", "evil.snapshot", TEXT),
    "upload, no wait param": ("snapshot", "x.snapshot", TEXT),
    "no key: upload": ("snapshot", "up.snapshot", b""),
    "wrong key: upload": ("snapshot", "up.snapshot", b""),
    "read-only key: upload": ("snapshot", "up.snapshot", b""),
    "bearer wrong: upload": ("snapshot", "up.snapshot", b""),
    "single node: upload of a two-node snapshot": ("snapshot", "up.snapshot", snapshot_bytes("n1")),
    "single node: custom": ("snapshot", "up.snapshot", snapshot_bytes("custom")),
}
BODIES = {
    "upsert": json.dumps({"points": points("text")}).encode(),
    "bad json": b"{bad",
}
KEYS = {"wrong key": "no-such-key", "read-only key": READ_ONLY_KEY}
BODY_OF_LONG_SCROLL = {"points": points("text"), "next_page_offset": None}
"""Recorded only as size and sha256; the points were recorded beside it."""


@dataclass(frozen=True)
class Exchange:
    """One recorded exchange."""

    file: str
    number: int
    label: str
    request: dict[str, Any]
    response: dict[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.response["headers"])

    def __str__(self) -> str:
        return f"{self.file.removesuffix('.json')}-{self.number:03d}-{self.label}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def recorded(file: str) -> list[Exchange]:
    rows = json.loads((RECORDINGS / file).read_bytes())
    return [Exchange(file, at, row["label"], row["request"], row["response"]) for at, row in enumerate(rows)]


def replayed(file: str) -> list[Exchange]:
    exchanges = recorded(file)
    if file == "two-nodes.json":
        return [exchange for exchange in exchanges if exchange.label.startswith("single")]
    return [exchange for exchange in exchanges if exchange.label not in NEVER_SENT[file]]


EXCHANGES = [exchange for file in NEVER_SENT for exchange in replayed(file)]


# -- sending them again


@pytest.fixture(scope="module")
def answers() -> dict[str, Answer]:
    """Each file from start to end against a stand-in of its own, which builds up the recorded state."""
    return {
        **dict(replay("one-node.json", StandIn(peer_id=2841235159689269))),
        **dict(replay("api-key.json", StandIn(API_KEY, READ_ONLY_KEY, peer_id=6068080978572047))),
        **dict(replay("two-nodes.json", StandIn())),
    }


def replay(file: str, server: StandIn) -> Iterator[tuple[str, Answer]]:
    etag = ""
    with server:
        for exchange in replayed(file):
            server.set_clock(clock_of(exchange))
            prepare(server, exchange)
            answer = send(server, exchange, etag)
            etag = answer.headers.get("etag", etag)
            yield str(exchange), answer
            use_genuine_snapshots(server, exchange)


def clock_of(exchange: Exchange) -> datetime:
    """The second in which it happened: the snapshot's where one was made, else the answer's."""
    result = (exchange.response.get("json") or {}).get("result")
    if exchange.request["method"] == "POST" and isinstance(result, dict) and "creation_time" in result:
        return datetime.fromisoformat(result["creation_time"]).replace(tzinfo=UTC)
    return parsedate_to_datetime(exchange.headers["date"])


def prepare(server: StandIn, exchange: Exchange) -> None:
    """What happened on the recorded server between two recorded exchanges."""
    if exchange.label == "collections" and exchange.number == 130:
        server.create_collection("big")


def use_genuine_snapshots(server: StandIn, exchange: Exchange) -> None:
    """From here on the collections hold what the recorded snapshots hold."""
    if exchange.file == "one-node.json" and exchange.label == "upsert":
        server.set_snapshot_bytes(TEXT_COLLECTION, TEXT)
    if exchange.label == "upsert image":
        server.set_snapshot_bytes(IMAGE_COLLECTION, IMAGE)


def send(server: StandIn, exchange: Exchange, etag: str) -> Answer:
    """Byte for byte: no header that was not recorded, nothing normalised in the path."""
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    body = body_of(exchange)
    connection.putrequest(exchange.request["method"], exchange.request["path"], skip_accept_encoding=True)
    for name, value in request_headers(exchange, etag).items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    answer = Answer(response.status, dict(response.getheaders()), response.read())
    connection.close()
    return answer


def request_headers(exchange: Exchange, etag: str) -> dict[str, str]:
    key = KEYS.get(exchange.label.partition(":")[0], API_KEY)
    headers = {
        name: re.sub(r'"[0-9a-f]+(:[0-9a-f]+){3}"', etag, value).replace("<key>", key)
        for name, value in exchange.request["headers"].items()
    }
    made_with_key = exchange.file == "api-key.json" and exchange.number < 3  # by the recorder, unmentioned
    return headers | ({"api-key": API_KEY} if made_with_key else {})


def body_of(exchange: Exchange) -> bytes | None:
    content_type = exchange.request["headers"].get("Content-Type", "")
    if content_type.startswith("multipart/"):
        return upload_body(exchange)
    body = exchange.request.get("json", exchange.request.get("body"))
    if isinstance(body, str):
        return BODIES[exchange.label]
    return None if body is None else json.dumps(body).encode()


def upload_body(exchange: Exchange) -> bytes:
    field, filename, data = UPLOADS.get(exchange.label, ("snapshot", "up.snapshot", TEXT))
    body = multipart.build("XBOUNDARYX", field, filename, data)
    assert exchange.request["body"] == f"<{len(body)} bytes>", "not the body that was recorded"
    return body


# -- comparing


@pytest.mark.parametrize("exchange", EXCHANGES, ids=str)
def test_the_answer_is_the_recorded_one(exchange: Exchange, answers: dict[str, Answer]) -> None:
    answer = answers[str(exchange)]

    assert answer.status == exchange.response["status"]
    assert comparable_headers(answer.headers, exchange) == comparable_headers(exchange.headers, exchange)
    assert length_is_honest(answer)
    assert_same_body(answer, exchange)


def comparable_headers(headers: dict[str, str], exchange: Exchange) -> dict[str, str]:
    """Names as they are on the wire; values that cannot be equal become their form."""
    shown = dict(headers)
    shown["date"] = bool(parsedate_to_datetime(headers["date"])) * "a date"
    if "etag" in shown:
        shown["etag"] = re.sub(r"[0-9a-f]+", "x", shown["etag"])
    if "content-length" in shown and not length_is_fixed(exchange):
        shown["content-length"] = "a length"
    return shown


def length_is_fixed(exchange: Exchange) -> bool:
    """JSON holds `time`; and of api-key.json's own snapshot only the checksum is known."""
    own_snapshot = exchange.label.endswith(": download") and exchange.response["status"] == 200
    return not own_snapshot and (
        exchange.label.endswith("version") or exchange.headers.get("content-type") != "application/json"
    )


def length_is_honest(answer: Answer) -> bool:
    return answer.headers.get("content-length", str(len(answer.body))) == str(len(answer.body))


def assert_same_body(answer: Answer, exchange: Exchange) -> None:
    expected = exchange.response
    if exchange.label == "scroll all":
        assert comparable(json.loads(answer.body)["result"]) == comparable(BODY_OF_LONG_SCROLL)
    elif "json" in expected:
        assert comparable(json.loads(answer.body)) == comparable(expected["json"])
    elif "text" in expected:
        assert answer.body.decode() == expected["text"]
    elif exchange.headers.get("content-encoding") == "gzip":
        assert hashlib.sha256(gzip.decompress(answer.body)).hexdigest() in GENUINE
    elif exchange.file == "one-node.json":
        digest = hashlib.sha256(answer.body).hexdigest()
        assert {"size": len(answer.body), "sha256": digest} == expected["body"]


def comparable(value: Any) -> Any:
    """Masks what cannot be equal; keeps keys and types everywhere."""
    match value:
        case dict():
            return {key: _member(key, part, value) for key, part in value.items()}
        case list():
            return [comparable(part) for part in value]
        case float():
            return round(value, 4)
        case str():
            return re.sub(r"-recovery-\w{6}\b", "-recovery-RANDOM", value)
        case _:
            return value


def _member(key: str, value: Any, within: dict[str, Any]) -> Any:
    if key in ("time", "operation_id"):
        return f"a {key}" if isinstance(value, int | float) else value
    if key in ("size", "checksum") and within.get("checksum", "genuine") not in {*GENUINE, "genuine"}:
        return f"a {key}" if isinstance(value, int) or len(value) == 64 else value
    return comparable(value)


def test_only_the_stated_exchanges_are_left_out() -> None:
    for file in ("one-node.json", "api-key.json"):
        left_out = {exchange.label for exchange in recorded(file)} - {e.label for e in replayed(file)}
        assert left_out == set(NEVER_SENT[file])


def test_a_cluster_is_described_as_the_recorded_one() -> None:
    expected = recorded("two-nodes.json")[0]

    with StandIn(peers=2) as server:
        answer = send(server, expected, "")

    shown, wanted = json.loads(answer.body)["result"], expected.response["json"]["result"]
    assert len(shown.pop("peers")) == len(wanted.pop("peers")) == 2
    assert shape(shown) == shape(wanted)


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return type(value).__name__


@pytest.mark.parametrize("name", ["text", "image", "n1", "n2", "custom"])
def test_the_recorded_snapshots_are_whole(name: str) -> None:
    sums = (RECORDINGS / "SHA256SUMS").read_text()

    assert f"{hashlib.sha256(snapshot_bytes(name)).hexdigest()}  {name}.snapshot\n" in sums
