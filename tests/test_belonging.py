"""What DocMind ties together is held against each other after a restore, and what is not there is not right."""

from __future__ import annotations

import pytest
from tests.core import values
from tests.fakes import FakeServer

from docmind_backup import belonging
from docmind_backup.belonging import TOGETHER, check_belonging
from docmind_backup.core.journal import Checked
from docmind_backup.core.model import IndexSnapshot, ignore
from docmind_backup.errors import QdrantUnreachable


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """An index snapshot is active that needs `docs`."""
    active = IndexSnapshot("snap", "2.0", collections={"text": "docs"})
    monkeypatch.setattr(belonging, "active_snapshot", lambda *_: active)
    return FakeServer()


def check(server: FakeServer) -> tuple[Checked, ...]:
    return check_belonging(values.record(), values.ENVIRONMENT, server, ignore)


def test_a_collection_that_is_not_there_is_not_right(server: FakeServer) -> None:
    server.add("other")

    first, *_ = check(server)

    assert first == Checked("collection docs", "not there; index snapshot snap needs it", right=False)


def test_a_server_that_fell_silent_is_one_check_that_is_not_right(server: FakeServer) -> None:
    server.add("docs")
    server.fail(QdrantUnreachable("nothing answers"), "describe")

    assert check(server) == (Checked(TOGETHER, "could not be held against each other: nothing answers", right=False),)
