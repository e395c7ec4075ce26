"""What each refusal and silence of Qdrant is told as, and that the key is never told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pytest_httpx import HTTPXMock
from tests.qdrant.answers import (
    CALLS,
    KEY,
    READS,
    URL,
    WRITES,
    Answers,
    Call,
    told,
)
from tests.standin import StandIn

from docmind_backup.errors import Interrupted, QdrantError, QdrantRefused, QdrantUnreachable
from docmind_backup.qdrant import QdrantServer, resolve


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
@pytest.mark.parametrize("call", ["names", "snapshots"])
def test_too_many_requests_with_a_time_to_retry(
    call: str, after: str, qdrant: Answers, server: QdrantServer, tmp_path: Path
) -> None:
    qdrant.error(429, "slow down", headers={"retry-after": after})
    with pytest.raises(QdrantError, match="answered 429"):
        CALLS[call](server, tmp_path)


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
    if (call, status) == (READS["peers"], 200):
        assert server.peers() == 1
        return
    with pytest.raises(QdrantError) as caught:
        call(server, tmp_path)
    assert KEY not in told(caught.value)


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
    assert "start it" in caught.value.hint
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(("error", "words"), SILENCES, ids=[words for _, words in SILENCES])
def test_only_where_nobody_took_the_call_nothing_can_have_come_of_it(
    error: Exception, words: str, qdrant: Answers, server: QdrantServer
) -> None:
    qdrant.mock.add_exception(error)
    with pytest.raises(QdrantUnreachable) as caught:
        server.create_snapshot("docs")
    assert caught.value.may_be_done is not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)


@pytest.mark.parametrize("answer", [{"status": "accepted"}, {"result": None}, {}, [], "<html>"])
def test_an_answer_that_names_no_snapshot_leaves_open_whether_there_is_one(
    answer: object, qdrant: Answers, server: QdrantServer
) -> None:
    qdrant.give(202, json=answer)
    with pytest.raises(QdrantError) as caught:
        server.create_snapshot("docs")
    assert caught.value.may_be_done


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


PLANNED = """
import sys
from docmind_backup.qdrant import connect
with connect(sys.argv[1]) as server:
    print(server.peers(), server.names(), server.aliases(), server.describe("docs").points)
    print("qdrant_client" in sys.modules)
    server.snapshots("docs")
    print("qdrant_client" in sys.modules)
"""


def test_a_plans_questions_do_not_wait_for_the_client_that_makes_snapshots() -> None:
    with StandIn() as standin:
        standin.create_collection("docs", [])
        ran = subprocess.run(
            [sys.executable, "-c", PLANNED, standin.url], capture_output=True, text=True, check=True, env=_environment()
        )
    assert ran.stdout.splitlines() == ["1 ('docs',) {} 0", "False", "True"]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_localhost_resolves_to_this_machine_and_nonsense_to_nothing() -> None:
    assert set(resolve("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r"."):
        resolve("127.0.0.1.invalid")
