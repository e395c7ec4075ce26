"""Collections take part in a restore: their order, their notes in the journal, and that a failure takes both back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Cli
from tests.environments import DocMindV2, build_v2
from tests.killing import look

from docmind_backup import restores
from docmind_backup.core.journal import Checked, Notes, Returning
from docmind_backup.errors import QdrantError
from docmind_backup.journal import RestoreFolder

CONTAINERS = ("data", "cache", "cache/ingestion", "data/analytics")


class Told:
    """A collection that writes down what it is told, and fails when it should."""

    def __init__(self, name: str, notes: Notes, calls: list[tuple[str, str]], fail: str) -> None:
        self.name = name
        self._notes, self._calls, self._fail = notes, calls, fail

    def _do(self, what: str) -> None:
        self._calls.append((self.name, what))
        self._notes.put({**self._notes.get(), what: True})
        if self._fail == f"{self.name} {what}":
            raise QdrantError(f"{self.name}: no", hint="ask again")

    def prepare(self) -> None:
        self._do("prepare")

    def apply(self) -> None:
        assert self._notes.get()["prepare"]
        self._do("apply")

    def check(self) -> tuple[Checked, ...]:
        return ()

    def roll_back(self) -> None:
        self._do("roll back")

    def discard(self) -> None:
        self._do("discard")

    def left_behind(self) -> tuple[str, ...]:
        return ()


class Server:
    """What stands in for the part that moves collections."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.fail = ""

    def returnings(self, *_: object) -> Callable[[Callable[[str], Notes], Path], Sequence[Returning]]:
        return lambda notes, _: tuple(Told(name, notes(name), self.calls, self.fail) for name in ("text", "image"))


@pytest.fixture
def env(tmp_path: Path, cli: Cli) -> DocMindV2:
    env = build_v2(tmp_path / "docmind")
    assert cli("create", "-C", env.project, "--no-qdrant-snapshot").code == 0
    (env.uploads / "since.pdf").write_bytes(b"%PDF since")
    return env


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(restores, "_collections", server.returnings)
    return server


def test_they_are_prepared_before_and_applied_after_the_files_are_swapped(
    cli: Cli, env: DocMindV2, server: Server
) -> None:
    done = cli("restore", "latest", "-C", env.project, "--yes", "--json")

    assert done.code == 0, done.err
    assert server.calls == [(n, w) for w in ("prepare", "apply") for n in ("text", "image")]
    assert done.json()["collections"] == ["text", "image"]
    (journal,) = RestoreFolder(env.data_dir).finished()
    assert journal.notes == {name: {"prepare": True, "apply": True} for name in ("text", "image")}


@pytest.mark.parametrize("fail", ["text prepare", "image prepare", "text apply", "image apply"])
def test_a_failure_takes_files_and_collections_back(cli: Cli, env: DocMindV2, server: Server, fail: str) -> None:
    before = look(env.project, containers=CONTAINERS)
    server.fail = fail

    done = cli("restore", "latest", "-C", env.project, "--yes")

    assert done.code == 15
    assert "no" in done.err
    assert look(env.project, containers=CONTAINERS) == before
    assert server.calls[-2:] == [("image", "roll back"), ("text", "roll back")]
    assert not (env.data_dir / ".docmind-restore").exists()


def test_what_cannot_be_taken_back_now_is_taken_back_later(cli: Cli, env: DocMindV2, server: Server) -> None:
    before = look(env.project, containers=CONTAINERS)
    server.fail = "text apply"

    def broken(*args: Any) -> Any:
        made = server.returnings()
        return lambda notes, folder: [
            *made(notes, folder),
            Told("third", notes("third"), server.calls, "third roll back"),
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restores, "_collections", broken)
        done = cli("restore", "latest", "-C", env.project, "--yes")
    assert done.code == 15
    assert "restore --rollback" in done.err
    assert cli("create", "-C", env.project).code == 11
    shutil.rmtree(env.backups)
    server.calls.clear()

    assert cli("restore", "--rollback", "-C", env.project).code == 0
    assert server.calls == [("image", "roll back"), ("text", "roll back")]
    assert look(env.project, containers=CONTAINERS) == before


def test_they_are_rolled_back_and_discarded_on_demand(cli: Cli, env: DocMindV2, server: Server) -> None:
    before = look(env.project, containers=CONTAINERS)
    assert cli("restore", "latest", "-C", env.project, "--yes").code == 0
    server.calls.clear()

    assert cli("restore", "--rollback", "-C", env.project).code == 0
    assert server.calls == [("image", "roll back"), ("text", "roll back")]
    assert look(env.project, containers=CONTAINERS) == before

    assert cli("restore", "latest", "-C", env.project, "--yes").code == 0
    server.calls.clear()
    assert cli("restore", "--discard-rollback", "-C", env.project, "--yes").code == 0
    assert server.calls == [("text", "discard"), ("image", "discard")]


def test_what_is_written_to_a_collection_meanwhile_is_said_not_to_be_kept(
    cli: Cli, env: DocMindV2, server: Server
) -> None:
    done = cli("restore", "latest", "-C", env.project, "--yes")
    back = cli("restore", "--rollback", "-C", env.project)

    assert "to undo it; what is written to the collections until then is not kept" in done.err
    assert "collections too: text, image; what was written to them since the restore is not kept" in back.err
    assert "the files that had been restored, with what was written since, are in" in back.err
