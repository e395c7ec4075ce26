"""Events are for others: whatever becomes of them, a backup is made, and the loss is said."""

from __future__ import annotations

import fcntl
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import NOON, backups, only_backup, overwrite
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


# -- of a restore ----------------------------------------------------------------------------------


def events(env: DocMindV2) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (env.backups / "events.jsonl").read_text().splitlines()]


def test_a_restore_and_each_way_on_from_it_are_told(cli: Cli, env: DocMindV2) -> None:
    where = ("-C", env.project, "--yes")
    assert cli("create", "-C", env.project, "--only", "identity,chat", "-q").code == 0

    codes = [cli("restore", "latest", *where).code, cli("restore", "--rollback", *where).code]
    codes += [cli("restore", "latest", *where).code, cli("restore", "--discard-rollback", *where).code]

    made, *told = events(env)
    assert codes == [0, 0, 0, 0]
    assert [event["event"] for event in told] == [
        "backup_restored",
        "restore_taken_back",
        "backup_restored",
        "rollback_discarded",
        "rollback_discarded",
    ]
    assert {event["id"] for event in told} == {made["id"]}
    assert [event.get("complete") for event in told] == [True, None, True, None, None]
    first, _, second, *discarded = [event["run"] for event in told]
    assert told[1]["run"] == first != second
    assert discarded == [first, second]


def test_a_restore_that_lacks_something_is_told_as_such(cli: Cli, env: DocMindV2) -> None:
    assert cli("create", "-C", env.project, "--only", "uploads", "-q").code == 0
    (backup,) = backups(env.backups)
    upload = next(path for path in (backup / "data" / "uploads").rglob("*") if path.is_file())
    overwrite(upload, b"?" + upload.read_bytes()[1:])

    done = cli("restore", "latest", "-C", env.project, "--skip-damaged", "--yes")

    assert done.code == 3, done.err
    assert events(env)[-1] | {"event": "backup_restored", "complete": False} == events(env)[-1]


@pytest.mark.parametrize("way", [("latest",), ("--discard-rollback",)], ids=lambda way: way[0])
def test_a_restore_that_had_begun_and_failed_is_told(cli: Cli, env: DocMindV2, way: tuple[str, ...]) -> None:
    assert cli("create", "-C", env.project, "--only", "identity,chat", "-q").code == 0
    assert cli("restore", "latest", "-C", env.project, "--yes").code == 0
    with (env.data_dir / ".docmind-restore" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cli("restore", *way, "-C", env.project, "--yes", "--json")

    told = events(env)[-1]
    assert (done.code, told["event"], told["exit_code"]) == (11, "restore_failed", 11)
    assert told["error"] == json.loads(done.err.splitlines()[-1])["error"]


def test_a_restore_that_is_refused_before_it_begins_is_no_event(cli: Cli, env: DocMindV2) -> None:
    assert cli("create", "-C", env.project, "--only", "identity", "-q").code == 0
    before = events(env)

    assert cli("restore", "latest", "-C", env.project).code == 2
    assert cli("restore", "--rollback", "-C", env.project).code == 2

    assert events(env) == before
