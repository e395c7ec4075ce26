"""Events are for others: whatever becomes of them, a backup is made, and the loss is said."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.catalogs import NOON, only_backup
from tests.conftest import Cli
from tests.environments import DocMindV2, build_v2

from docmind_backup.events import EventLog


@pytest.fixture
def env(tmp_path: Path) -> DocMindV2:
    return build_v2(tmp_path / "docmind", analytics=False)


def full(_path: Path, _stack: ExitStack) -> Path:
    return Path("/dev/full")


def unread(path: Path, _stack: ExitStack) -> Path:
    """A FIFO that nobody reads: opening it for writing would wait for ever."""
    os.mkfifo(path)
    return path


def never_emptied(path: Path, stack: ExitStack) -> Path:
    """A FIFO whose reader reads nothing, filled to the brim: writing would wait for ever."""
    os.mkfifo(path)
    for flags in (os.O_RDONLY, os.O_WRONLY):
        stack.callback(os.close, fd := os.open(path, flags | os.O_NONBLOCK))
    with suppress(BlockingIOError):
        while os.write(fd, bytes(1 << 16)):
            pass
    return path


def folder(path: Path, _stack: ExitStack) -> Path:
    path.mkdir()
    return path


def nowhere(path: Path, _stack: ExitStack) -> Path:
    return path / "not there" / "events.jsonl"


def link(path: Path, _stack: ExitStack) -> Path:
    """Somebody planted it: what it names is not ours to write."""
    path.symlink_to(path.with_name("precious"))
    path.with_name("precious").write_text("mine")
    return path


def closed_descriptor(_path: Path, _stack: ExitStack) -> Path:
    return Path("/proc/self/fd/987")


@pytest.fixture(
    params=[full, unread, never_emptied, folder, nowhere, link, closed_descriptor], ids=lambda f: f.__name__
)
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    make: Callable[[Path, ExitStack], Path] = request.param
    with ExitStack() as stack:
        yield make(tmp_path / "sink", stack)


def test_a_sink_that_takes_nothing_costs_a_warning(cli: Cli, env: DocMindV2, sink: Path, tmp_path: Path) -> None:
    made = cli("create", "-C", env.project, "--only", "identity", "--events", sink)

    assert made.code == 0, made.err
    (warning,) = [line for line in made.err.splitlines() if line.startswith("warning: ")]
    assert str(sink) in warning
    assert cli("verify", only_backup(env.backups)).code == 0
    assert not (tmp_path / "precious").exists() or (tmp_path / "precious").read_text() == "mine"


def test_one_sink_that_takes_nothing_keeps_no_event_from_another(cli: Cli, env: DocMindV2) -> None:
    (env.project / "logs" / "telemetry.jsonl").unlink(missing_ok=True)
    (env.project / "logs" / "telemetry.jsonl").mkdir(parents=True)
    (env.project / "docmind-backup.toml").write_text("telemetry = true\n")

    made = cli("create", "-C", env.project, "--only", "identity", "--json")

    assert made.code == 0
    assert made.json()["exit_code"] == 0
    assert [line.split()[0] for line in made.err.splitlines()] == ["warning:"]
    (event,) = map(json.loads, (env.backups / "events.jsonl").read_text().splitlines())
    assert event["event"] == "backup_created"


def test_a_line_that_did_not_fit_is_said(tmp_path: Path) -> None:
    """The disk takes a part of it."""
    warnings: list[str] = []
    log = EventLog([tmp_path / "events.jsonl"], clock=lambda: NOON, warn=warnings.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        log.emit("backup_created")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert (tmp_path / "events.jsonl").stat().st_size == 10
    assert warnings == [f"the event was not written to {tmp_path / 'events.jsonl'}: No space left on device"]
