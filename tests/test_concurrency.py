"""Two at once, a holder that dies, a file system without locks, and clocks that jump."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from tests.catalogs import backups, clone, contents, flip, record
from tests.conftest import Cli
from tests.environments import DocMindV2
from tests.standin import StandIn

from docmind_backup import compose as composing
from docmind_backup import operations, restores
from docmind_backup import verify as verifying
from docmind_backup.catalog import Catalog
from docmind_backup.compose import compose
from docmind_backup.core import format as fmt
from docmind_backup.core.selection import Selection
from docmind_backup.errors import Locked

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ONE = ("--only", "identity", "--json")


class Once:
    """An `on_event` that does something in the middle of a run, once."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act, self.done = act, False

    def __call__(self, _event: object) -> None:
        if not self.done:
            self.done = True
            self._act()


# -- two at once ---------------------------------------------------------------------------------


def test_while_a_backup_is_made_no_other_writes_and_everything_can_be_read(cli: Cli, offline: DocMindV2) -> None:
    earlier = Path(cli("create", "-C", offline.project, "--no-qdrant-snapshot", "--json").json()["directory"])
    here = ("-C", offline.project)
    codes: dict[str, int] = {}

    def others() -> None:
        for words in ("create", "prune --keep-last 1", "list", "show latest", "verify latest", "restore-plan latest"):
            result = cli(*words.split(), *here)
            codes[words] = result.code
            if result.code == 11:
                assert f"process {os.getpid()} " in result.err

    with compose(offline.project, {"qdrant_snapshot": False}, warn=lambda _: None) as run:
        made = operations.create(run.job, on_event=Once(others))

    assert codes == {
        "create": 11,
        "prune --keep-last 1": 11,
        "list": 0,
        "show latest": 0,
        "verify latest": 0,
        "restore-plan latest": codes["restore-plan latest"],
    }
    assert codes["restore-plan latest"] in (0, 3)
    assert made.backup
    assert backups(offline.backups) == sorted([earlier, made.backup.directory])
    assert cli("verify", "--all", *here).code == 0


class Gate(Event):
    """Tells when somebody waits at it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)


def test_a_second_create_waits_as_long_as_it_is_told(cli: Cli, env: DocMindV2, server: StandIn) -> None:
    """Two processes: the first is held by the server while the second waits for its lock."""
    gate = server.faults.answer_gate = Gate()
    command = [sys.executable, "-m", "docmind_backup", "create", "-C", str(env.project), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
        try:
            assert gate.reached.wait(120)
            with subprocess.Popen([*command, "--lock-wait", "300"], stdout=subprocess.DEVNULL) as second:
                while not _has_open(second.pid, ".backup.lock"):
                    assert second.poll() is None, "it did not wait"
                    time.sleep(0.02)
                refused = cli("create", "-C", env.project)
                gate.set()
                codes = first.wait(120), second.wait(120)
        finally:
            gate.set()
            first.kill()

    assert codes == (0, 0)
    assert (refused.code, f"process {first.pid} " in refused.err) == (11, True)
    assert [record(backup).sequence for backup in backups(env.backups)] == [1, 2]
    assert cli("verify", "--all", "-C", env.project, "--quiet").code == 0


def _has_open(pid: int, name: str) -> bool:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        return any(os.readlink(f"{folder}/{fd}").endswith(name) for fd in os.listdir(folder))
    return False


def test_a_backup_that_is_verified_is_not_pruned_meanwhile(cli: Cli, offline: DocMindV2) -> None:
    first = Path(cli("create", "-C", offline.project, *ONE).json()["directory"])
    clone(first, 2)
    pruned: list[Any] = []

    def prune() -> None:
        result = cli("prune", "--keep-last", "1", "-C", offline.project, "--json")
        pruned.append((result.code, result.json()["removed"]))

    found = verifying.verify(first, on_event=Once(prune))

    assert found.exit_code == 0
    assert pruned == [(3, [])]
    assert cli("prune", "--keep-last", "1", "-C", offline.project, "--json").json()["removed"] == [found.id]


def test_a_backup_that_is_restored_is_not_pruned_meanwhile_also_where_the_catalog_has_no_lock(
    cli: Cli, offline: DocMindV2, tmp_path: Path
) -> None:
    first = Path(cli("create", "-C", offline.project, *ONE).json()["directory"])
    second = clone(first, 2)
    outcomes: list[Any] = []

    def prune() -> None:
        outcomes.append(cli("prune", "--keep-last", "1", "-C", offline.project).code)
        catalog = Catalog(first.parent)
        removed, refused = catalog.discard([catalog.read(first)])  # as if the lock had let it in
        outcomes.append((removed, [why for _, why in refused]))

    with compose(offline.project, {}, warn=lambda _: None) as run:
        planned = restores.plan(run.job, str(first), Selection(to=str(tmp_path / "out")))
        restores.restore(run.job, planned, on_event=Once(prune))

    assert outcomes == [11, ([], ["it is being read"])]
    assert backups(first.parent) == sorted([first, second])


def test_docminds_own_service_and_this_tool_keep_each_other_out(cli: Cli, offline: DocMindV2) -> None:
    """Its lock as its code takes it: flock on `.backup.lock` in the root, LOCK_EX | LOCK_NB, of a file opened `a+`."""
    assert cli("create", "-C", offline.project, *ONE).code == 0
    path = offline.backups / ".backup.lock"
    with path.open("a+") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert cli("create", "-C", offline.project, *ONE).code == 11
        assert cli("prune", "--keep-last", "1", "-C", offline.project).code == 11
        assert cli("list", "-C", offline.project).code == 0
    with Catalog(offline.backups).lock(), path.open("a+") as theirs, pytest.raises(BlockingIOError):
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- a holder that dies --------------------------------------------------------------------------

HOLDER = """
import os, signal, sys
from pathlib import Path
from docmind_backup.catalog import Catalog
with Catalog(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(root: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_lock_of_a_killed_run_is_free_whoever_has_its_number_now(cli: Cli, offline: DocMindV2) -> None:
    assert cli("create", "-C", offline.project, *ONE).code == 0
    path = offline.backups / ".backup.lock"
    with holding(offline.backups) as process:
        assert cli("create", "-C", offline.project).code == 11
        process.send_signal(signal.SIGKILL)
        process.wait()

    left = json.loads(path.read_bytes())
    assert left["pid"] == process.pid
    path.write_text(json.dumps({**left, "pid": os.getppid()}))  # its number was given to one that lives

    assert cli("create", "-C", offline.project, *ONE).code == 0


# -- without locks -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_refused_in_words_and_can_be_read(
    number: int, cli: Cli, offline: DocMindV2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = Path(cli("create", "-C", offline.project, *ONE).json()["directory"])
    second = clone(first, 2)
    before = contents(first)

    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)

    for words in ("create --only identity", "prune --keep-last 1", "restore latest --yes"):
        result = cli(*words.split(), "-C", offline.project)
        assert (result.code, "cannot lock" in result.err, "flock" in result.err) == (1, True, True), result.err
    for words in ("list", "show latest", "verify --all", "prune --dry-run"):
        assert cli(*words.split(), "-C", offline.project).code == 0, words
    catalog = Catalog(first.parent)
    removed, _ = catalog.discard([catalog.read(first)])
    assert removed == []
    assert backups(first.parent) == sorted([first, second])
    assert contents(first) == before


# -- clocks --------------------------------------------------------------------------------------


class Clock:
    """What the whole tool takes for the time."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(NOON)
    monkeypatch.setattr(composing, "now", made)
    return made


def test_whatever_the_clock_does_ids_are_unique_and_the_order_is_that_of_the_runs(
    cli: Cli, offline: DocMindV2, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice in one second, the hour that comes twice, back a day, another zone, forward ten years and back."""
    autumn = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 in Berlin, and an hour later 02:30 again
    moments = [
        *((NOON, zone) for zone in ("UTC", "UTC")),
        *((autumn + timedelta(hours=hours), "Europe/Berlin") for hours in (0, 1)),
        (NOON - timedelta(days=1), "Asia/Tokyo"),
        (NOON + timedelta(days=3650), "America/St_Johns"),
        (datetime(1970, 1, 1, tzinfo=UTC), "UTC"),
        (NOON + timedelta(minutes=1), "Pacific/Kiritimati"),
    ]
    made: list[dict[str, Any]] = []
    for moment, zone in moments:
        clock.now = moment
        monkeypatch.setenv("TZ", zone)
        result = cli("create", "-C", offline.project, *ONE, "--keep-last", "100")
        assert result.code == 0, result.err
        made.append(result.json())

    assert len({one["id"] for one in made}) == len(moments)
    assert [one["id"][:15] for one in made] == [f"{moment:%Y%m%d_%H%M%S}" for moment, _ in moments]
    listed = cli("list", "-C", offline.project, "--json").json()
    assert [one["id"] for one in listed] == [one["id"] for one in reversed(made)]
    assert [one["sequence"] for one in listed] == list(range(len(moments), 0, -1))
    assert cli("show", "latest", "-C", offline.project, "--json").json()["id"] == made[-1]["id"]
    assert cli("verify", "--all", "-C", offline.project, "--quiet").code == 0

    removed = cli("prune", "--keep-last", "2", "-C", offline.project, "--json").json()["removed"]

    assert sorted(removed) == sorted(one["id"] for one in made[:5])  # the one of 2036 stays and takes no place


def test_a_clock_that_goes_back_hides_no_verification_and_no_damage(cli: Cli, offline: DocMindV2, clock: Clock) -> None:
    first = Path(cli("create", "-C", offline.project, *ONE).json()["directory"])
    here = ("-C", offline.project, "--json")
    clock.now = NOON + timedelta(days=3650)
    assert cli("verify", "latest", *here).code == 0
    clock.now = NOON
    flip(first / "data" / ".deployment-id", 0)

    assert cli("verify", first, "--max-age", "30d", *here).code == 4
    assert cli("list", *here).json()[0]["verified"] == "damaged"


def test_a_run_that_waits_for_a_lock_waits_by_a_clock_that_nobody_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock runs backwards: the deadline is met all the same."""
    root = tmp_path / "root"
    with Catalog(root).lock():
        monkeypatch.setattr("time.time", Clock(NOON - timedelta(days=1)))
        with pytest.raises(Locked), Catalog(root).lock(0.05):
            pytest.fail("two writers")


def test_the_id_of_a_backup_is_that_of_its_record_not_of_its_folder(cli: Cli, offline: DocMindV2) -> None:
    first = Path(cli("create", "-C", offline.project, *ONE).json()["directory"])
    moved = first.rename(first.parent / "backup_19990101_000000")

    (listed,) = cli("list", "-C", offline.project, "--json").json()

    assert listed["id"] == fmt.read_record((moved / fmt.RECORD).read_bytes()).id
