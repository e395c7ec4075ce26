"""A download that breaks off goes on where it was, begins anew or is refused; what is stored is always one file."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from tests.qdrant.answers import OCTETS, nothing
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

from docmind_backup import downloading
from docmind_backup.breaking import Breaker
from docmind_backup.core.qdrant_rest import NotFoundError
from docmind_backup.core.server import Downloaded
from docmind_backup.downloading import Patience
from docmind_backup.errors import Interrupted, QdrantError, QdrantUnreachable, Stopped
from docmind_backup.qdrant import QdrantServer, connect

PATIENCE_S = 60
BODY = random.Random(5).randbytes(100_000)
OTHER = random.Random(6).randbytes(100_000)
TENTH = len(BODY) // 10
NAME = "a.snapshot"
GONE_ON = [None] + [f"bytes={TENTH * n}-" for n in range(1, 10)]


def came(body: bytes) -> Downloaded:
    return Downloaded(len(body), hashlib.sha256(body).hexdigest())


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as standin:
        standin.create_collection("docs", [], vectors={"size": 4, "distance": "Dot"})
        standin.put_snapshot("docs", NAME, BODY)
        yield standin


@pytest.fixture
def server(standin: StandIn) -> Iterator[QdrantServer]:
    with connect(standin.url, retry_wait_s=0) as server:
        yield server


def ranges(standin: StandIn) -> list[str | None]:
    return [request.headers.get("range") for request in standin.requests if request.path.endswith(NAME)]


def fetched(server: QdrantServer, folder: Path) -> tuple[Downloaded, bytes]:
    """What is told and what is stored; the bytes that were told of are as many."""
    seen: list[int] = []
    got = server.download("docs", NAME, folder / "a", seen.append)
    assert sum(seen) == got.size
    return got, (folder / "a").read_bytes()


# -- resumed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("tenth", range(11))
def test_a_connection_that_breaks_at_any_tenth_goes_on_from_there(
    tenth: int, reset: bool, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    standin.faults.downloads.append(Drop(TENTH * tenth, reset=reset))

    assert fetched(server, tmp_path) == (came(BODY), BODY)

    asked = ranges(standin)
    assert asked[0] is None
    if not reset:  # what a reset overtakes never arrives
        assert asked[1:] == ([f"bytes={TENTH * tenth}-"] if 0 < tenth < 10 else [None] if not tenth else [])


def test_one_that_breaks_at_each_tenth_is_whole_in_the_end(standin: StandIn, tmp_path: Path) -> None:
    standin.faults.downloads += [Drop(TENTH)] * 9

    with connect(standin.url, retry_wait_s=0, download_retries=9) as server:
        assert fetched(server, tmp_path) == (came(BODY), BODY)

    assert ranges(standin) == GONE_ON


def test_attempts_are_counted_anew_where_much_came(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "FRESH", TENTH)
    standin.faults.downloads += [Drop(TENTH)] * 9

    with connect(standin.url, retry_wait_s=0, download_retries=1) as server:
        assert fetched(server, tmp_path) == (came(BODY), BODY)

    assert ranges(standin) == GONE_ON


def test_attempts_that_bring_little_are_bounded(standin: StandIn, server: QdrantServer, tmp_path: Path) -> None:
    standin.faults.every_download = Drop(10)

    with pytest.raises(QdrantUnreachable, match=r"broke.*given up after 6 attempts") as caught:
        server.download("docs", NAME, tmp_path / "a", nothing)

    assert caught.value.hint
    assert len(ranges(standin)) == 6
    assert not list(tmp_path.iterdir())


def test_a_server_that_falls_silent_is_asked_again(standin: StandIn, tmp_path: Path) -> None:
    standin.faults.downloads.append(Stall(TENTH, Event()))

    with connect(standin.url, retry_wait_s=0, stall_timeout_s=0.2) as server:
        assert fetched(server, tmp_path) == (came(BODY), BODY)

    assert ranges(standin) == [None, f"bytes={TENTH}-"]


# -- begun anew ----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [OTHER, OTHER[:50], OTHER + BODY], ids=["as long", "shorter", "longer"])
def test_another_file_of_the_same_name_is_fetched_from_its_beginning(
    other: bytes, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    standin.faults.downloads.append(Drop(TENTH))
    standin.faults.before("GET", NAME, lambda: standin.put_snapshot("docs", NAME, other), skip=1)

    assert fetched(server, tmp_path) == (came(other), other)
    assert ranges(standin) == [None, f"bytes={TENTH}-", None]


def rest(**headers: str) -> dict[str, str]:
    """The head of a sound answer to `bytes=10000-`, but for these."""
    end = len(BODY) - 1
    sound = {"etag": "E", "content-encoding": "identity", "content-range": f"bytes {TENTH}-{end}/{len(BODY)}"}
    return OCTETS | sound | {name.replace("_", "-"): value for name, value in headers.items()}


NO_REST = {
    "another ETag": (206, rest(etag='"other"')),
    "no ETag": (206, rest(etag="")),
    "another total": (206, rest(content_range=f"bytes {TENTH}-{len(BODY) - 1}/{len(BODY) + 1}")),
    "no total": (206, rest(content_range=f"bytes {TENTH}-{len(BODY) - 1}/*")),
    "another beginning": (206, rest(content_range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}")),
    "another end": (206, rest(content_range=f"bytes {TENTH}-{len(BODY) - 2}/{len(BODY)}")),
    "no range": (206, rest(content_range="")),
    "another unit": (206, rest(content_range=f"lines {TENTH}-{len(BODY) - 1}/{len(BODY)}")),
    "the whole": (200, rest()),
    "not satisfiable": (416, rest(content_range=f"bytes */{len(BODY)}")),
}


@pytest.mark.parametrize(("status", "headers"), NO_REST.values(), ids=NO_REST)
def test_what_does_not_prove_to_be_the_rest_is_not_taken(
    status: int, headers: dict[str, str], standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    """Each of these brings as many bytes as are missing, of another file."""
    etag = standin.state.snapshot("docs", NAME).etag
    headers = headers | {"etag": etag if headers["etag"] == "E" else headers["etag"]}
    standin.faults.downloads.append(Drop(TENTH))
    standin.faults.answer("GET", NAME, status, headers, OTHER[TENTH:], skip=1)

    assert fetched(server, tmp_path) == (came(BODY), BODY)
    assert ranges(standin) == [None, f"bytes={TENTH}-", None]


@pytest.mark.parametrize("etag", ["", 'W/"weak"', "bare"])
def test_without_an_etag_that_says_something_nothing_is_resumed(
    etag: str, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    cut = OCTETS | {"content-length": str(len(BODY)), "etag": etag}
    standin.faults.answer("GET", NAME, 200, cut, BODY[:TENTH])

    assert fetched(server, tmp_path) == (came(BODY), BODY)
    assert ranges(standin) == [None, None]


def test_chunks_that_break_off_are_fetched_from_the_beginning(
    standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    standin.faults.downloads.append(ChunkedCut(TENTH))

    assert fetched(server, tmp_path) == (came(BODY), BODY)
    assert ranges(standin) == [None, None]


def test_a_file_that_is_another_one_each_time_is_given_up(
    standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    bodies = [bytes([number]) * 1000 for number in range(250)]
    standin.faults.every_download = Drop(500)
    standin.faults.before("GET", NAME, lambda: standin.put_snapshot("docs", NAME, bodies.pop()), times=None)

    with pytest.raises(QdrantUnreachable, match="given up after"):
        server.download("docs", NAME, tmp_path / "a", nothing)
    assert not list(tmp_path.iterdir())


# -- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [ForcedGzip(), HtmlPage()], ids=repr)
@pytest.mark.parametrize("resumed", [False, True])
def test_what_is_no_snapshot_is_refused_also_as_a_rest(
    resumed: bool, fault: Any, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    standin.faults.downloads += [*([Drop(TENTH)] if resumed else []), fault]

    with pytest.raises(QdrantError, match=r"compressed|text/html"):
        server.download("docs", NAME, tmp_path / "a", nothing)

    assert len(ranges(standin)) == 1 + resumed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", [Flip(5), CloseDelimited(TENTH), ChunkedCut(TENTH, clean=True), WrongLength(-5)])
def test_what_nothing_tells_on_the_wire_is_told_as_it_came(
    fault: Any, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    """The caller compares with what the server described."""
    standin.faults.downloads.append(fault)

    got, stored = fetched(server, tmp_path)

    assert got == came(stored)
    assert got != came(BODY)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 422, 501, 507])
def test_a_refusal_is_not_asked_again(status: int, standin: StandIn, server: QdrantServer, tmp_path: Path) -> None:
    standin.faults.refuse("GET", NAME, status, "no", times=None)

    with pytest.raises(QdrantError):
        server.download("docs", NAME, tmp_path / "a", nothing)
    assert len(ranges(standin)) == 1


def test_a_snapshot_that_goes_while_it_is_fetched_is_gone(
    standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    standin.faults.downloads.append(Drop(TENTH))
    standin.faults.before("GET", NAME, lambda: standin.state.delete_snapshot("docs", NAME), skip=1)

    with pytest.raises(NotFoundError):
        server.download("docs", NAME, tmp_path / "a", nothing)
    assert not list(tmp_path.iterdir())


# -- how long it waits ---------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which take no time."""
    asked: list[float] = []
    monkeypatch.setattr(Breaker, "wait", lambda _self, seconds: asked.append(seconds))
    return asked


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_answer_that_may_be_another_one_in_a_moment_is_waited_for_longer_each_time(
    status: int, standin: StandIn, tmp_path: Path, waits: list[float]
) -> None:
    standin.faults.refuse("GET", NAME, status, "busy", times=6)

    with connect(standin.url, download_retries=7) as server:
        assert fetched(server, tmp_path) == (came(BODY), BODY)

    assert waits == [1, 2, 4, 8, 16, 30]


def test_a_refused_connection_is_tried_again(standin: StandIn, tmp_path: Path, waits: list[float]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, so nobody else's; not listening, so refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with connect(url, download_retries=2) as server, pytest.raises(QdrantUnreachable, match="after 3 attempts"):
            server.download("docs", NAME, tmp_path / "a", nothing)
    assert waits == [1, 2]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("7", 7),
        ("0", 1),
        ("soon", 1),
        ("-5", 1),
        ("Sat, 21 Nov 2026 01:52:31 GMT", 60),
        ("Sat, 21 Nov 2026 00:00:00 GMT", 1),
    ],
)
def test_a_server_that_says_when_is_taken_at_its_word(
    after: str, expected: float, standin: StandIn, tmp_path: Path, waits: list[float]
) -> None:
    """A time is meant by the server's own clock."""
    standin.set_clock(datetime(2026, 11, 21, 1, 51, 31, tzinfo=UTC))
    standin.faults.refuse("GET", NAME, 503, "busy", {"retry-after": after})

    with connect(standin.url) as server:
        assert fetched(server, tmp_path) == (came(BODY), BODY)

    assert waits == [expected]


def test_a_server_that_wants_to_be_left_alone_for_an_hour_is_not_waited_for(
    standin: StandIn, tmp_path: Path, waits: list[float]
) -> None:
    standin.faults.refuse("GET", NAME, 429, "busy", {"retry-after": "3600"})

    with connect(standin.url) as server, pytest.raises(QdrantError, match="3,600 s of rest"):
        server.download("docs", NAME, tmp_path / "a", nothing)
    assert waits == []


# -- too slow ------------------------------------------------------------------------------------


def test_a_byte_now_and_then_is_as_good_as_silence(standin: StandIn, tmp_path: Path) -> None:
    standin.faults.every_download = Drip(TENTH, Event())

    with (
        connect(standin.url, stall_timeout_s=0.3, min_rate=10**6, download_retries=1, retry_wait_s=0) as server,
        pytest.raises(QdrantUnreachable, match=r"too slowly: .*given up after 2 attempts") as caught,
    ):
        server.download("docs", NAME, tmp_path / "a", nothing)
    assert "min_rate" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_head_that_never_ends_is_too(tmp_path: Path) -> None:
    """Each byte of it comes before silence would end the waiting."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = Event()

        def drip() -> None:
            line, _ = listening.accept()
            with line:
                line.recv(65536)
                line.sendall(b"HTTP/1.1 200 OK\r\nx-slow: ")
                try:
                    while not done.wait(0.02):
                        line.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with (
            connect(url, stall_timeout_s=0.3, download_retries=0) as server,
            pytest.raises(QdrantUnreachable, match="fell silent"),
        ):
            server.download("docs", NAME, tmp_path / "a", nothing)
        done.set()
        thread.join()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("reads", "slow"),
    [
        ([(59, 1), (1, 1)], True),
        ([(1, 1024)] * 200, False),
        ([(1, 1023)] * 60, True),
        ([(1, 10**9), *[(1, 1)] * 59], False),
        ([(1, 10**9), *[(1, 1)] * 119], True),
        ([(0, 1)] * 10_000, False),
        ([(1, 1)] * 59, False),
        ([(1, 1)] * 59 + [(60, 0)], False),
    ],
    ids=["drip", "just enough", "just too little", "a burst first", "a burst, then drip", "buffered", "short", "end"],
)
def test_slow_is_what_brings_too_little_over_the_whole_window(reads: list[tuple[float, int]], slow: bool) -> None:
    """A disk that does not keep up is no slow line: only time spent waiting for the server counts."""
    clock = Clock()
    pace = downloading._Pace(Patience(silence_s=60, min_rate=1024, retries=0, wait_s=0), clock)

    def read(seconds: float, count: int) -> Callable[[], int]:
        def act() -> int:
            clock.now += seconds
            return count

        return act

    def run() -> None:
        for seconds, count in reads:
            pace.of(read(seconds, count))
            clock.now += 1000  # our own disk

    if slow:
        with pytest.raises(downloading._SetbackError, match="too slowly"):
            run()
    else:
        run()


# -- stopped -------------------------------------------------------------------------------------


class Passage(Event):
    """A gate that tells when somebody waits at it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)


def ended(act: Callable[[], object], reached: Event, stop: Callable[[], None]) -> BaseException | None:
    """What a thread raised that was stopped when it had come so far."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert reached.wait(PATIENCE_S)
    stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    return raised[0] if raised else None


@pytest.mark.parametrize("at", [0, TENTH])
def test_a_download_under_way_ends_when_it_is_stopped(
    at: int, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    gate = Passage()
    standin.faults.every_download = Stall(at, gate)

    error = ended(
        lambda: server.download("docs", NAME, tmp_path / "a", nothing),
        gate.reached,
        lambda: server.stop(at_once=False),
    )

    assert isinstance(error, Stopped)
    assert not list(tmp_path.iterdir())
    with pytest.raises(Stopped):
        server.download("docs", NAME, tmp_path / "a", nothing)
    server.delete_snapshot("docs", NAME)  # what has to be cleaned up can be
    assert server.snapshots("docs") == ()


def test_the_wait_before_another_attempt_ends_too(standin: StandIn, tmp_path: Path) -> None:
    refused = Event()
    standin.faults.before("GET", NAME, refused.set)
    standin.faults.refuse("GET", NAME, 503, "busy", times=None)
    with connect(standin.url, retry_wait_s=PATIENCE_S * 10) as server:
        error = ended(
            lambda: server.download("docs", NAME, tmp_path / "a", nothing),
            refused,
            lambda: server.stop(at_once=False),
        )
    assert isinstance(error, Stopped)


@pytest.mark.parametrize("creating", [True, False])
def test_a_creation_ends_only_where_it_is_said(creating: bool, standin: StandIn, server: QdrantServer) -> None:
    gate = standin.faults.answer_gate = Passage()
    server.snapshots("docs")  # qdrant-client is imported

    def stop() -> None:
        server.stop(at_once=creating)
        if not creating:
            gate.set()

    error = ended(lambda: server.create_snapshot("docs"), gate.reached, stop)

    assert isinstance(error, Stopped) is creating


def test_each_thread_has_connections_of_its_own(standin: StandIn, server: QdrantServer, tmp_path: Path) -> None:
    one, other = server.another(), server.another()
    one.stop(at_once=True)

    assert other.download("docs", NAME, tmp_path / "a", nothing) == came(BODY)
    assert other.create_snapshot("docs").name


def test_ctrl_c_is_heard_while_it_waits(
    standin: StandIn, server: QdrantServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike(_seconds: float) -> bool:
        raise Interrupted(2)

    standin.faults.downloads.append(Drop(TENTH))
    monkeypatch.setattr(server._lines.downloading, "wait", strike)

    with pytest.raises(Interrupted):
        server.download("docs", NAME, tmp_path / "a", nothing)
    assert not list(tmp_path.iterdir())
