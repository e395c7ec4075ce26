"""What becomes of the bytes of a download between the socket and the disk. Real sockets, real files."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT, default_int_handler, signal
from threading import Event

import pytest
from tests.qdrant.answers import OCTETS, nothing
from tests.standin import ChunkedCut, CloseDelimited, Drop, Stall, StandIn

from docmind_backup import direct, downloading
from docmind_backup.core.server import Downloaded
from docmind_backup.errors import QdrantUnreachable
from docmind_backup.qdrant import QdrantServer, connect
from docmind_backup.receiving import BLOCK, BLOCKS, HOLE

ROUND = BLOCK * BLOCKS
"""Bytes with which every block was used once."""
MANY = 3 * ROUND
NOISE = random.Random(4).randbytes(MANY + 17)


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as standin:
        standin.create_collection("docs", [], vectors={"size": 4, "distance": "Dot"})
        yield standin


@pytest.fixture
def server(standin: StandIn) -> Iterator[QdrantServer]:
    with connect(standin.url, stall_timeout_s=30, download_retries=0) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name in ("hash", "write")] == []


def serve(standin: StandIn, body: bytes) -> None:
    """Whatever snapshot is asked for."""
    standin.faults.answer("GET", r"\.snapshot$", 200, OCTETS, body, times=None)


def serve_badly(standin: StandIn, server: QdrantServer, fault: Drop | Stall | ChunkedCut | CloseDelimited) -> str:
    """The snapshot's name, which comes so."""
    standin.set_snapshot_bytes("docs", NOISE)
    standin.faults.downloads.append(fault)
    return server.create_snapshot("docs").name


def download(server: QdrantServer, target: Path, name: str = "a.snapshot") -> Downloaded:
    return server.download("docs", name, target, nothing)


# -- what is stored ------------------------------------------------------------------------------

SIZES = [0, 1, 4095, 4096, HOLE + 1, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 4096, ROUND, ROUND + 5, MANY + 17]


@pytest.mark.parametrize("size", SIZES)
def test_any_size_is_stored_and_hashed_as_it_was_sent(
    size: int, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    body, seen = NOISE[:size], list[int]()
    serve(standin, body)
    got = server.download("docs", "a.snapshot", tmp_path / "a", seen.append)
    assert got == Downloaded(size, hashlib.sha256(body).hexdigest())
    assert (tmp_path / "a").read_bytes() == body
    assert sum(seen) == size


SPARSE = {
    "nothing but zeros": bytes(MANY),
    "zeros at the end": NOISE[:5000] + bytes(MANY),
    "zeros in between": NOISE[:BLOCK] + bytes(MANY) + NOISE[:BLOCK],
    "zeros first": bytes(MANY) + NOISE[:17],
    "islands": (bytes(BLOCK) + NOISE[:HOLE]) * 7 + bytes(3),
}


@pytest.mark.parametrize("body", SPARSE.values(), ids=SPARSE)
def test_long_runs_of_zeros_take_no_room(body: bytes, standin: StandIn, server: QdrantServer, tmp_path: Path) -> None:
    serve(standin, body)
    got = download(server, tmp_path / "a")
    data = sum(HOLE for start in range(0, len(body), HOLE) if any(body[start : start + HOLE]))
    assert got == Downloaded(len(body), hashlib.sha256(body).hexdigest())
    assert (tmp_path / "a").read_bytes() == body
    assert (tmp_path / "a").stat().st_blocks * 512 <= data + HOLE


def test_what_the_file_system_does_not_take_past_its_cache_is_written_through_it(tmp_path: Path) -> None:
    """Neither the address nor the offset is one that O_DIRECT takes."""
    odd = direct.aligned_buffer(2 * direct.DIRECT_FROM)[1:]
    odd[:] = NOISE[: len(odd)]
    target = os.open(tmp_path / "a", direct.NEW_FLAGS, 0o600)
    try:
        switched = direct.set_direct(target, on=True)
        direct.put(target, odd, 3, direct=switched)
    finally:
        os.close(target)
    assert (tmp_path / "a").read_bytes() == bytes(3) + bytes(odd)


# -- what ends it --------------------------------------------------------------------------------

PLACES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, ROUND, ROUND + 1, MANY]


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_cut_anywhere_leaves_nothing(
    at: int, reset: bool, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    name = serve_badly(standin, server, Drop(at, reset=reset))
    with pytest.raises(QdrantUnreachable, match="broke"):
        download(server, tmp_path / "a", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", PLACES)
def test_what_ends_early_without_a_length_is_hashed_as_far_as_it_came(
    at: int, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    name = serve_badly(standin, server, CloseDelimited(at))
    assert download(server, tmp_path / "a", name) == Downloaded(at, hashlib.sha256(NOISE[:at]).hexdigest())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, MANY])
def test_a_full_disk_ends_a_download_that_is_still_coming_or_just_came(
    size: int, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    if os.system(f"mount -t tmpfs -o size={BLOCK // 2} tmpfs {tmp_path}") != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        serve(standin, NOISE[:size])
        with pytest.raises(OSError, match="No space left") as caught:
            download(server, tmp_path / "a")
        assert not list(tmp_path.iterdir())
    finally:
        os.system(f"umount {tmp_path}")
    assert caught.value.errno == errno.ENOSPC


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of more than a million bytes can be written."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("size", [1_000_001, BLOCK, BLOCK + 1, MANY])
def test_a_disk_that_fails_is_told_as_it_is(size: int, standin: StandIn, server: QdrantServer, tmp_path: Path) -> None:
    """Also when only the last block fails, which nobody waits for any more."""
    serve(standin, NOISE[:size])
    with pytest.raises(OSError, match="File too large"):
        download(server, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_fails_while_the_server_is_silent_is_the_reason(standin: StandIn, tmp_path: Path) -> None:
    with connect(standin.url, stall_timeout_s=1, download_retries=0) as server:
        name = serve_badly(standin, server, Stall(BLOCK + 1, Event()))
        with pytest.raises(OSError, match="File too large"):
            download(server, tmp_path / "a", name)
    assert not list(tmp_path.iterdir())


class Struck(Event):
    """Waiting for it sends this process a Ctrl-C."""

    def wait(self, timeout: float | None = None) -> bool:
        os.kill(os.getpid(), SIGINT)
        return super().wait(timeout)


@pytest.mark.parametrize("at", [0, 1, BLOCK, ROUND + 1])
def test_ctrl_c_ends_the_waiting_for_a_silent_server(
    at: int, standin: StandIn, server: QdrantServer, tmp_path: Path
) -> None:
    name = serve_badly(standin, server, Stall(at, Struck()))
    before = signal(SIGINT, default_int_handler)  # in the background a shell switches it off
    try:
        with pytest.raises(KeyboardInterrupt):
            download(server, tmp_path / "a", name)
    finally:
        signal(SIGINT, before)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_between_making_a_file_and_using_it_leaves_none(
    standin: StandIn, server: QdrantServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(standin, NOISE[:BLOCK])
    opened = os.open

    def strike(path: Path, flags: int, mode: int) -> int:
        os.close(opened(path, flags, mode))
        raise KeyboardInterrupt

    monkeypatch.setattr("docmind_backup.receiving.os.open", strike)
    with pytest.raises(KeyboardInterrupt):
        download(server, tmp_path / "a")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_there_stays(standin: StandIn, server: QdrantServer, tmp_path: Path) -> None:
    serve(standin, NOISE[:BLOCK])
    (tmp_path / "a").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        download(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"somebody's"


# -- memory --------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from pathlib import Path
from docmind_backup.qdrant import connect
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with connect(sys.argv[1]) as server:
    server.version()
    before = peak()
    got = server.download("docs", "a.snapshot", Path(sys.argv[2]), lambda _: None)
print(got.size, peak() - before)
"""


def test_memory_does_not_grow_with_the_snapshot(tmp_path: Path) -> None:
    size = 512 * 1024 * 1024
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = threading.Thread(target=_send_zeros, args=(listening, size))
        sender.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", PEAK, url, str(tmp_path / "a")]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        sender.join()
    arrived, grown = map(int, ran.stdout.split())
    assert arrived == size
    assert grown < 2 * ROUND + 16 * 1024 * 1024


def _send_zeros(listening: socket.socket, size: int) -> None:
    """A server of two connections: a greeting, then a snapshot."""
    greeting = b'{"version": "1"}'
    with listening.accept()[0] as connection, connection.makefile("rb") as requests:
        while requests.readline().strip():
            pass
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(greeting), greeting))
    with listening.accept()[0] as connection, connection.makefile("rb") as requests:
        while requests.readline().strip():
            pass
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n"
        connection.sendall(head % size)
        for _ in range(size // BLOCK):
            connection.sendall(bytes(BLOCK))


# -- which way the bytes take --------------------------------------------------------------------


@pytest.mark.parametrize(("announced", "reads"), [(True, True), (False, False)])
def test_what_is_announced_is_read_from_the_socket_itself(
    announced: bool,
    reads: bool,
    standin: StandIn,
    server: QdrantServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = list[int]()
    read = downloading._Plain._read

    def counted(self: downloading._Plain, view: memoryview) -> int:
        counts.append(count := read(self, view))
        return count

    monkeypatch.setattr(downloading._Plain, "_read", counted)
    if announced:
        serve(standin, NOISE)
        name = "a.snapshot"
    else:
        name = serve_badly(standin, server, CloseDelimited(len(NOISE)))

    got = download(server, tmp_path / "a", name)

    assert got == Downloaded(len(NOISE), hashlib.sha256(NOISE).hexdigest())
    assert (sum(counts) > len(NOISE) / 2) is reads
    assert server.count("docs") == 0  # on another connection


def test_a_framed_body_is_not_taken_by_its_length(tmp_path: Path) -> None:
    """RFC 9112, 6.3: where both are given, the framing counts."""
    body = b"A" * 5000
    framed = b"".join(b"%x\r\n%b\r\n" % (1000, body[i : i + 1000]) for i in range(0, 5000, 1000)) + b"0\r\n\r\n"
    kinds = b"Content-Type: application/octet-stream\r\nContent-Length: 5000\r\nTransfer-Encoding: chunked\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            line, _ = listening.accept()
            with line:
                line.recv(65536)
                line.sendall(b"HTTP/1.1 200 OK\r\n" + kinds + b"\r\n" + framed)
                line.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        with connect(f"http://127.0.0.1:{listening.getsockname()[1]}") as server:
            got = download(server, tmp_path / "a")
        thread.join()

    assert got.size == 5000
    assert (tmp_path / "a").read_bytes() == body
