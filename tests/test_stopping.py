"""Ctrl-C works at once, whatever a server that has fallen silent is being asked, and by which thread."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Cli
from tests.environments import DocMindV2
from tests.restore_worlds import Template, World, in_memory, live_on, make_template, open_world
from tests.returning_worlds import everything
from tests.standin import StandIn

from docmind_backup import restores
from docmind_backup.errors import QdrantUnreachable, Stopped
from docmind_backup.qdrant import QdrantServer, connect

PATIENCE_S = 60
"""A run that goes on for so long after the signal did not end by it; each call may take twice as long."""


@pytest.fixture(autouse=True)
def _little_time_after_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_STOP_TIMEOUT", "0.3")
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_TIMEOUT", str(2 * PATIENCE_S))


class Silence:
    """Requests that are not answered while the test is about them. The first one brings Ctrl-C to the main thread."""

    def __init__(self, server: StandIn) -> None:
        self._server = server
        self._over = threading.Event()
        self._struck = False
        self.outlasted = False
        """Somebody waited all the time."""

    def __call__(self) -> None:
        if not self._struck:
            self._struck = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if not self._server.faults.hold_on(self._over, PATIENCE_S):
            self.outlasted = True

    def over(self) -> None:
        """The server answers again; what was asked before is carried out, though nobody waits for it."""
        self._server.faults.rules.clear()
        self._over.set()


@pytest.fixture
def silence(server: StandIn) -> Iterator[Silence]:
    silence = Silence(server)
    yield silence
    silence.over()


def notes(env: DocMindV2, what: str = "servers") -> list[dict[str, Any]]:
    """The first line of each."""
    paths = sorted(env.backups.glob(f".state/{what}/*.json"))
    return [json.loads(path.read_text("utf-8").splitlines()[0]) for path in paths]


def ours(server: StandIn, env: DocMindV2) -> list[str]:
    return [name for collection in (env.text_collection, env.image_collection) for name in server.snapshots(collection)]


# -- create --------------------------------------------------------------------------------------

CALLS = {
    "count": ("POST", "/points/count$"),
    "snapshots": ("GET", "/snapshots$"),
    "describe": ("GET", "$"),
    "create_snapshot": ("POST", "/snapshots$"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_hangs_in_another_thread_does_not_keep_it(
    call: str, cli: Cli, env: DocMindV2, server: StandIn, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, (method, path) = getattr(QdrantServer, call), CALLS[call]
    made = threading.Event()

    def asked(self: QdrantServer, name: str) -> object:
        if threading.current_thread() is not threading.main_thread() and not made.is_set():
            made.set()
            server.faults.before(method, f"/collections/{name}{path}", silence)
        return really(self, name)

    monkeypatch.setattr(QdrantServer, call, asked)
    hold_the_main_thread(server, monkeypatch)

    ended = cli("create", "-C", env.project)

    assert made.is_set()
    assert (ended.code, silence.outlasted) == (130, False)
    assert "Traceback" not in ended.err
    assert list(env.backups.glob("*backup_*")) == list(env.backups.glob(".staging*")) == []
    assert ours(server, env) == []
    assert len(notes(env)) == (call == "create_snapshot")


def hold_the_main_thread(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first download does not come, so that the other thread gets a collection too."""
    really = QdrantServer.download
    held = threading.Event()

    def download(self: QdrantServer, *call: Any) -> object:
        if threading.current_thread() is threading.main_thread():
            server.faults.before("GET", f"/collections/{call[0]}/snapshots/", lambda: server.faults.hold(held))
        return really(self, *call)

    monkeypatch.setattr(QdrantServer, "download", download)


def test_what_a_lost_creation_brings_is_a_candidate_with_its_command(
    cli: Cli, env: DocMindV2, server: StandIn, silence: Silence
) -> None:
    made, text = threading.Event(), env.text_collection
    server.faults.before("POST", f"/{text}/snapshots$", silence)
    server.faults.after("POST", f"/{text}/snapshots$", made.set)
    assert cli("create", "-C", env.project, "--collection", text).code == 130
    silence.over()
    assert made.wait(PATIENCE_S)
    (late,) = server.snapshots(text)

    said = cli("leftovers", "-C", env.project, "--json").json()
    after = cli("create", "-C", env.project, "--json")

    assert [(one["whose"], one["snapshot"]) for one in said["snapshots"]] == [("candidate", late)]
    assert f"/snapshots/{late}'" in said["snapshots"][0]["command"]
    assert [one["snapshot"] for one in after.json()["left_on_server"]] == [late]
    assert list(server.snapshots(text)) == [late]


def test_a_server_that_is_silent_from_then_on_keeps_what_is_ours_for_the_next_run(
    cli: Cli, env: DocMindV2, server: StandIn, silence: Silence
) -> None:
    server.put_snapshot(env.text_collection, "theirs.snapshot", b"theirs", age_s=60)

    def fall_silent() -> None:
        server.faults.before("*", "", silence, times=None)
        silence()

    server.faults.before("GET", "/snapshots/.+", fall_silent, skip=1)  # the first asks which file it is

    ended = cli("create", "-C", env.project, "--collection", env.text_collection)

    assert (ended.code, silence.outlasted) == (130, False)
    silence.over()
    (note,) = notes(env)
    assert note["name"] in server.snapshots(env.text_collection)
    assert cli("create", "-C", env.project).code == 0
    assert ours(server, env) == ["theirs.snapshot"]
    assert notes(env) == []


# -- verify --rehearse ---------------------------------------------------------------------------


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_rehearsal_ends_and_its_scratch_collection_is_named_and_removed_by_hand_or_the_next_run(
    by_hand: bool, cli: Cli, env: DocMindV2, server: StandIn, silence: Silence
) -> None:
    assert cli("create", "-C", env.project, "--only", "identity,qdrant").code == 0
    there = everything(server)

    def fall_silent() -> None:
        server.faults.before("*", "", silence, times=None)
        silence()

    server.faults.before("POST", "docmind-backup-scratch-.*/points/scroll", fall_silent)

    ended = cli("verify", "latest", "--rehearse", "-C", env.project)

    assert (ended.code, silence.outlasted) == (130, False)
    silence.over()
    (note,) = notes(env, "scratch")
    assert note["name"] in server.collections()
    found = cli("leftovers", "-C", env.project, "--json").json()
    (left,) = found["scratch"]
    assert (left["standing"], left["collection"]) == ("listed", note["name"])
    assert [one["whose"] for one in found["snapshots"] if one["collection"] == note["name"]] in ([], ["ours"])
    assert left["command"] in cli("leftovers", "-C", env.project).out
    if by_hand:
        subprocess.run(["sh", "-c", left["command"]], check=False, capture_output=True)
        assert everything(server) == there
    assert cli("create", "-C", env.project, "--only", "identity,qdrant").code == 0
    assert everything(server) == there
    assert notes(env, "scratch") == []


# -- restore -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def world(template: Template, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(restores, "_prover", lambda _: None)
    with in_memory() as folder:
        made = open_world(template, folder, server)
        live_on(made)
        yield made


def test_a_restore_that_waits_for_an_answer_goes_back_at_once(cli: Cli, world: World, silence: Silence) -> None:
    before = world.see()
    world.standin.faults.before("POST", f"/collections/{world.image}/points/count$", silence, skip=2)

    ended = cli("restore", "latest", *world.where, *world.small, "--yes")

    assert (ended.code, silence.outlasted) == (130, False), ended.err
    assert world.see() == before
    assert not world.journal().exists()


def test_a_restore_that_cannot_go_back_says_what_does(cli: Cli, world: World, silence: Silence) -> None:
    """The old collection is gone from a server that says nothing any more."""
    before, server = world.see(), world.standin

    def fall_silent() -> None:
        server.faults.before("*", "", silence, times=None)
        silence()

    server.faults.after("DELETE", f"/collections/{world.image}$", fall_silent)

    ended = cli("restore", "latest", *world.where, *world.small, "--yes")

    assert silence.outlasted is False
    assert (ended.code, "restore --rollback" in ended.err) == (130, True), ended.err
    silence.over()
    assert world.image not in server.collections()
    assert cli("restore", "--rollback", *world.where).code == 0
    assert world.see() == before


# -- one server ----------------------------------------------------------------------------------


@contextmanager
def dripping() -> Iterator[tuple[str, threading.Event]]:
    """A server whose answers never end: a byte each now and then. The event: somebody has asked."""
    asked, over = threading.Event(), threading.Event()

    def drip(line: socket.socket) -> None:
        with line:
            line.recv(65536)
            line.sendall(b"HTTP/1.1 200 OK\r\nx-slow: ")
            asked.set()
            try:
                while not over.wait(0.02):
                    line.sendall(b"x")
            except OSError:
                return

    def serve() -> None:
        while not over.is_set():
            line, _ = listening.accept()
            threads.append(threading.Thread(target=drip, args=(line,)))
            threads[-1].start()

    threads = [threading.Thread(target=serve)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            over.set()
            socket.create_connection(listening.getsockname()).close()
            for thread in threads:
                thread.join()


def test_what_is_asked_after_a_stop_has_to_be_answered_as_a_whole() -> None:
    with dripping() as (url, asked), connect(url, stop_timeout_s=0.2) as server:
        raised: list[BaseException] = []

        def ask() -> None:
            try:
                server.names()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert asked.wait(PATIENCE_S)
        server.stop(at_once=True)
        thread.join()
        with pytest.raises(QdrantUnreachable, match=r"nothing came for 0\.2 s"):
            server.names()

    assert [type(error) for error in raised] == [Stopped]


def test_a_stop_for_another_reason_lets_questions_be_answered(server: StandIn, tmp_path: Path) -> None:
    """What fails in one thread leaves another the time to clean up."""
    gate, asked = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        server.faults.hold(gate)

    server.faults.before("GET", "/collections$", hold)
    answers: list[object] = []
    with connect(server.url) as qdrant:
        thread = threading.Thread(target=lambda: answers.append(qdrant.names()))
        thread.start()
        assert asked.wait(PATIENCE_S)
        qdrant.stop(at_once=False)
        gate.set()
        thread.join()

    assert answers == [()]


def test_a_second_stop_does_not_end_what_cleans_up_after_the_first(server: StandIn) -> None:
    """The signal stops everybody, and so does the error that it becomes."""
    gate, asked = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        server.faults.hold(gate)

    server.faults.before("GET", "/collections$", hold)
    answers: list[object] = []
    with connect(server.url, stop_timeout_s=PATIENCE_S) as qdrant:
        qdrant.stop(at_once=True)
        thread = threading.Thread(target=lambda: answers.append(qdrant.names()))
        thread.start()
        assert asked.wait(PATIENCE_S)
        qdrant.stop(at_once=True)
        gate.set()
        thread.join()

    assert answers == [()]
