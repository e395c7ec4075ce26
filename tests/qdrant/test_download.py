"""How a snapshot comes over the wire, whole or not at all."""

from __future__ import annotations

import gzip
import lzma
import stat
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from tests.qdrant.answers import (
    KEY,
    OCTETS,
    RECORDINGS,
    Answers,
    nothing,
)
from tests.standin import ChunkedCut, CloseDelimited, Drop, Stall, StandIn, WrongLength

from docmind_backup.core.server import Downloaded
from docmind_backup.errors import Interrupted, QdrantError, QdrantUnreachable
from docmind_backup.qdrant import QdrantServer, connect


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
        for path in ("/", "/collections", "/collections/docs/snapshots"):
            standin.faults.answer("GET", f"^/behind/a/proxy{path}$", 200, {}, b'{"version": "1", "result": null}')
        assert server.version() == "1"
        for call in (server.names, lambda: server.snapshots("docs")):
            with pytest.raises(QdrantError, match="not one that this tool knows"):
                call()
    asked = [request.path.removeprefix("/behind/a/proxy") for request in standin.requests]
    assert asked == ["/", "/collections", "/collections/docs/snapshots"]


@pytest.mark.parametrize(
    "fault",
    [Drop(0), Drop(1000), Drop(1000, reset=True), Drop(64511), WrongLength(5), ChunkedCut(1000)],
    ids=repr,
)
def test_a_connection_that_breaks_leaves_no_file(fault: Any, standin: StandIn, tmp_path: Path) -> None:
    with connect(standin.url, download_retries=0) as server:
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
    with connect(standin.url, stall_timeout_s=0.2, download_retries=0) as server:
        made = server.create_snapshot("docs")
        standin.faults.downloads.append(Stall(1000, Event()))
        with pytest.raises(QdrantUnreachable, match=r"nothing came for 0\.2 s"):
            server.download("docs", made.name, tmp_path / "a", nothing)
    assert not list(tmp_path.iterdir())
