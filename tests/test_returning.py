"""A collection comes back whole, or what was there is there as it was: a failure at each call in turn.

The servers are stand-ins over real HTTP; everything on them is compared, what no call reaches too.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest

pytest.importorskip("qdrant_edge")

from tests.conftest import Cli
from tests.environments import DocMindV2
from tests.returning_worlds import (
    FOREIGN,
    METADATA,
    NAME,
    VECTORS,
    WORLDS,
    Backup,
    FileNotes,
    backup_of,
    connected,
    everything,
    make_backup,
    points,
    returning,
)
from tests.snapshots import RECORDINGS, recorded
from tests.standin import StandIn
from tests.sweep import STEP

from docmind_backup.core import format as fmt
from docmind_backup.core.model import Advanced, StepStarted
from docmind_backup.core.model import Event as RunEvent
from docmind_backup.core.returning import Stage
from docmind_backup.errors import BackupError, DamageFound, Interrupted, QdrantError, QdrantRefused
from docmind_backup.qdrant import connect
from docmind_backup.returning import CollectionReturn
from docmind_backup.uploads import Patience

EACH_WORLD = pytest.mark.parametrize("world", WORLDS)
READ_ONLY = "Forbidden: Global manage access is required"


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Backup:
    return make_backup(tmp_path_factory.mktemp("backup"))


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as made:
        yield made


def restore(standin: StandIn, backup: Backup, home: Path, **options: Any) -> None:
    with connected(standin.url) as server:
        one = returning(server, backup, home, **options)
        one.prepare()
        one.apply()


def roll_back(standin: StandIn, backup: Backup, home: Path) -> None:
    with connected(standin.url) as server:
        returning(server, backup, home).roll_back()


def assert_restored(standin: StandIn, name: str = NAME) -> None:
    """Points with their vectors, index, metadata and alias; nothing of ours beside it."""
    found = standin.state.find(name)
    assert standin.points(name) == points(5)
    assert found.payload_index == {"doc_id": "keyword"}
    assert found.config["metadata"] == METADATA
    assert standin.state.aliases["live"] == found.name
    assert not [name for name in standin.collections() if "scratch" in name]
    assert not [file for files in standin.state.files.values() for file in files if file.startswith("docmind-backup")]


# -- the three ways ------------------------------------------------------------------------------


@EACH_WORLD
def test_a_collection_comes_back_and_goes_again(world: str, standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS[world](standin)
    before = everything(standin)

    restore(standin, backup, tmp_path / "home")
    assert_restored(standin)
    assert standin.snapshots("other").keys() == {FOREIGN}

    roll_back(standin, backup, tmp_path / "home")
    assert everything(standin) == before


@EACH_WORLD
def test_preparing_changes_nothing_that_is_used(world: str, standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS[world](standin)
    before = everything(standin)

    with connected(standin.url) as server:
        returning(server, backup, tmp_path / "home").prepare()

    now = everything(standin)
    fresh = now["collections"].keys() - before["collections"].keys()
    assert all(name.startswith("docs-restored-") for name in fresh)
    assert len(fresh) == (world == "alias")
    assert {**now, "collections": {n: c for n, c in now["collections"].items() if n not in fresh}} == before


def test_an_alias_is_switched_and_what_it_led_to_stays(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS["alias"](standin)
    old = standin.points("docs-before")

    with connected(standin.url) as server:
        one = returning(server, backup, tmp_path / "home")
        one.prepare()
        one.apply()
        assert one.left_behind() == ("docs-before, to which docs led until now",)
        one.discard()

    assert standin.points("docs-before") == old
    assert standin.state.aliases[NAME].startswith("docs-restored-")


def test_under_the_exact_name_metadata_is_the_recorded_one_and_no_alias_is_lost(
    standin: StandIn, backup: Backup, tmp_path: Path
) -> None:
    WORLDS["exact"](standin)

    restore(standin, backup, tmp_path / "home")

    assert_restored(standin)
    assert standin.state.aliases == {"live": NAME, "dashboard": NAME, "moved": "other"}
    assert standin.snapshots(NAME).keys() == {FOREIGN}


def test_an_alias_that_led_elsewhere_leads_there_again(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS["exact"](standin)
    moved = replace(backup, taken=replace(backup.taken, state=replace(backup.taken.state, aliases=("live", "moved"))))
    before = everything(standin)

    restore(standin, moved, tmp_path / "home")
    assert standin.state.aliases["moved"] == NAME
    roll_back(standin, moved, tmp_path / "home")

    assert everything(standin) == before


@pytest.mark.parametrize(("name", "count"), [("text", 25), ("image", 7)])
@pytest.mark.parametrize("existing", [False, True])
def test_the_recorded_snapshots_come_back_with_the_recorded_points(
    name: str, count: int, existing: bool, standin: StandIn, tmp_path: Path
) -> None:
    scrolled = json.loads((RECORDINGS / f"{name}.points.json").read_bytes())
    with StandIn() as source, connect(source.url) as server:
        source.load_snapshot(NAME, recorded(name))
        genuine = backup_of(recorded(name), server.describe(NAME), tmp_path)
    if existing:
        standin.create_collection(NAME, points(3), VECTORS)

    restore(standin, genuine, tmp_path / "home")

    restored = {point["id"]: point["payload"] for point in standin.points(NAME)}
    assert standin.count(NAME) == len(restored) == count
    assert restored == {point["id"]: point["payload"] for point in scrolled}


def test_it_is_uploaded_with_priority_checksum_and_length_and_says_how_far_it_is(
    standin: StandIn, backup: Backup, tmp_path: Path
) -> None:
    seen: list[RunEvent] = []

    restore(standin, backup, tmp_path / "home", on_event=seen.append)

    (upload,) = (request for request in standin.requests if request.path.endswith("/upload"))
    assert upload.query == f"wait=true&priority=snapshot&checksum={backup.taken.sha256}"
    assert int(upload.headers["content-length"]) == upload.body_size > backup.taken.size
    assert sum(event.bytes for event in seen if isinstance(event, Advanced)) == backup.taken.size


# -- refused -------------------------------------------------------------------------------------


def refused(standin: StandIn, backup: Backup, home: Path, error: type[BackupError], match: str, **options: Any) -> None:
    before = everything(standin)
    with connected(standin.url) as server, pytest.raises(error, match=match):
        returning(server, backup, home, **options).prepare()
    assert everything(standin) == before


def test_a_damaged_snapshot_is_not_sent(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    bad = bytearray(backup.snapshot.read_bytes())
    bad[700] ^= 1
    path = tmp_path / "bad"
    path.write_bytes(bad)

    refused(standin, replace(backup, snapshot=path), tmp_path / "home", DamageFound, "not what was recorded")
    torn = backup_of(bytes(bad[:-1024]), backup.taken.state, tmp_path)
    refused(standin, torn, tmp_path / "home", DamageFound, "cannot be restored")
    assert not standin.requests


@pytest.mark.parametrize("plant", [lambda path: None, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_snapshot_that_is_no_file_is_damage_and_not_waited_for(
    standin: StandIn, backup: Backup, tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    path = tmp_path / "bad"
    plant(path)

    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it is waited for"))
    signal.alarm(60)
    try:
        refused(standin, replace(backup, snapshot=path), tmp_path / "home", DamageFound, "cannot be read")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not standin.requests


@dataclass(frozen=True)
class Counted:
    points: int


def test_what_the_engine_counts_decides(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    refused(standin, backup, tmp_path / "a", DamageFound, "holds 4 points", prove=lambda _: Counted(4))

    ranged = replace(backup, taken=replace(backup.taken, points_min=3, points_max=9))
    refused(standin, ranged, tmp_path / "b", DamageFound, "holds 2 points", prove=lambda _: Counted(2))
    restore(standin, ranged, tmp_path / "c", prove=lambda _: Counted(5))
    assert standin.count(NAME) == 5


@pytest.mark.parametrize(
    ("version", "peers", "match"),
    [("1.20.0", 1, "needs 1.18.3 or later of 1.18, or 1.19"), ("1.18.3", 2, "a cluster of 2 nodes")],
)
def test_a_server_that_it_cannot_go_to_is_refused(
    version: str, peers: int, match: str, backup: Backup, tmp_path: Path
) -> None:
    with StandIn(version=version, peers=peers) as standin:
        refused(standin, backup, tmp_path / "home", QdrantError, match)


def test_custom_sharding_is_refused(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    state = replace(backup.taken.state, sharding="custom")
    custom = replace(backup, taken=replace(backup.taken, state=state))

    refused(standin, custom, tmp_path / "home", QdrantError, "custom sharding")


def test_what_could_not_be_put_back_is_not_replaced(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS["exact"](standin)
    with standin.state.lock:
        standin.state.collections[NAME].config["params"]["sharding_method"] = "custom"

    refused(standin, backup, tmp_path / "home", QdrantError, f"{NAME} has custom sharding")


def test_putting_back_is_tried_before_anything_is_deleted(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    """For whatever reason what was saved brings no points, as custom sharding does on a real server."""
    WORLDS["exact"](standin)

    def emptied() -> None:
        (trial,) = (name for name in standin.collections() if "scratch" in name)
        with standin.state.lock:
            standin.state.collections[trial].points.clear()

    standin.faults.after("POST", "/upload$", emptied, times=1)
    refused(standin, backup, tmp_path / "home", QdrantError, "could not be put back once it is replaced: .*0 points")


def test_an_alias_that_is_a_live_collection_is_refused(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    standin.create_collection("live", points(1), VECTORS)

    refused(standin, backup, tmp_path / "home", QdrantError, "live is an alias of docs in the backup and a collection")


@EACH_WORLD
def test_a_read_only_key_is_found_out_before_anything_moves(world: str, backup: Backup, tmp_path: Path) -> None:
    with StandIn(api_key="k", read_only_key="r") as standin:
        WORLDS[world](standin)
        before = everything(standin)
        with connect(standin.url, api_key="r") as server, pytest.raises(QdrantRefused, match="read-only"):
            returning(server, backup, tmp_path / "home").prepare()
        assert everything(standin) == before


@pytest.mark.parametrize("status", [400, 500, 507])
@pytest.mark.parametrize("world", ["new", "alias"])
def test_a_server_that_makes_no_collection_is_left_with_nothing_to_undo(
    world: str, status: int, standin: StandIn, backup: Backup, tmp_path: Path
) -> None:
    """It refuses every time: what would clean up after a try would be refused too."""
    WORLDS[world](standin)
    before = everything(standin)
    standin.faults.refuse("PUT", "^/collections/[^/]+$", status, "Service internal error: no room", times=None)

    with connected(standin.url) as server, pytest.raises(QdrantError, match="no room") as raised:
        returning(server, backup, tmp_path / "home").prepare()

    assert str(raised.value).count("no room") == 1
    assert everything(standin) == before
    noted = FileNotes(tmp_path / "home" / "notes.json").get()
    assert (noted["stage"], noted["tried"]) == (Stage.BACK, False)
    assert len([request for request in standin.requests if request.method == "PUT"]) == 1


def test_points_written_since_it_was_saved_are_not_lost(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS["exact"](standin)
    with connected(standin.url) as server:
        one = returning(server, backup, tmp_path / "home")
        one.prepare()
        standin.upsert(NAME, points(4, "written meanwhile"))
        before = everything(standin)
        with pytest.raises(QdrantError, match="has changed since it was saved"):
            one.apply()

    assert everything(standin) == before


def test_nothing_is_deleted_once_the_saved_one_is_not_whole(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS["exact"](standin)
    before = everything(standin)
    with connected(standin.url) as server:
        one = returning(server, backup, tmp_path / "home")
        one.prepare()
        (saved,) = (tmp_path / "home").rglob("*.snapshot")
        saved.unlink()
        with pytest.raises(QdrantError, match="nothing was deleted"):
            one.apply()

    assert everything(standin) == before


def test_what_appeared_under_the_name_meanwhile_is_left_alone(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    with connected(standin.url) as server:
        one = returning(server, backup, tmp_path / "home")
        one.prepare()
        standin.create_collection(NAME, points(5, "somebody's"), VECTORS)
        before = everything(standin)
        with pytest.raises(QdrantError, match="has appeared"):
            one.apply()

    assert everything(standin) == before


def test_a_collection_made_by_somebody_after_a_failed_upload_is_left_alone(
    standin: StandIn, backup: Backup, tmp_path: Path
) -> None:
    """Rolled back by another process, later: the notes say `placed`, but what is there is not ours."""
    home = tmp_path / "home"
    with connected(standin.url) as server:
        one = returning(server, backup, home)
        one.prepare()
        notes = FileNotes(home / "notes.json")
        notes.put({**notes.get(), "placed": True})
        standin.create_collection(NAME, points(2, "somebody's"), VECTORS)
        before = everything(standin)
        with pytest.raises(QdrantError, match="is not what the restore put there"):
            one.roll_back()

    assert everything(standin) == before


# -- a failure at each call ----------------------------------------------------------------------


def envelope(text: str) -> bytes:
    return json.dumps({"status": {"error": text}, "time": 0.0}).encode()


JSON = {"content-type": "application/json"}


def error_500(standin: StandIn, at: int) -> None:
    body = envelope("Service internal error: something is wrong")
    standin.faults.answer("*", "", 500, JSON, body, skip=at)


def full_disk(standin: StandIn, at: int) -> None:
    """Where the server needs room: for a snapshot, or an upload."""
    body = envelope("Service internal error: No space left on device (os error 28)")
    standin.faults.answer("POST", "/snapshots(/upload)?$", 500, JSON, body, skip=at)


def not_served(standin: StandIn, at: int) -> None:
    standin.faults.hang_up("*", "", skip=at)


def answer_lost(standin: StandIn, at: int) -> None:
    standin.faults.hang_up("*", "", skip=at, served=True)


def wrong_count(standin: StandIn, at: int) -> None:
    body = json.dumps({"result": {"count": 999}, "status": "ok", "time": 0.0}).encode()
    standin.faults.answer("POST", "/points/count$", 200, JSON, body, skip=at)


FAULTS: dict[str, Callable[[StandIn, int], None]] = {
    "500": error_500,
    "disk full": full_disk,
    "not served": not_served,
    "answer lost": answer_lost,
    "wrong count": wrong_count,
}
MOST = 80
"""More calls than a restore makes: the sweep ends at the first fault that nothing meets."""


def disturbed(standin: StandIn, fault: Callable[[StandIn, int], None], at: int) -> Callable[[], bool]:
    """Puts the fault before the next call number `at`; what it gives says whether it was met."""
    standin.faults.rules.clear()
    fault(standin, at)
    (rule,) = standin.faults.rules
    return lambda: rule.times == 0


@EACH_WORLD
@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_failure_at_any_call_all_is_as_it_was_or_restored(
    world: str, fault: str, standin: StandIn, backup: Backup, tmp_path: Path
) -> None:
    WORLDS[world](standin)
    before = everything(standin)
    at = failed = 0
    with connected(standin.url) as server:
        for at in range(0, MOST, STEP):
            one = returning(server, backup, tmp_path / str(at))
            met = disturbed(standin, FAULTS[fault], at)
            try:
                one.prepare()
                one.apply()
            except BackupError:
                failed += 1
            else:
                standin.faults.rules.clear()
                assert_restored(standin)
                one.roll_back()
            assert without_lost(everything(standin), before) == before, f"call {at}"
            forget_lost(standin, before)
            if not met():
                break
    assert failed
    assert at < MOST - STEP


def without_lost(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """A snapshot whose creation was not answered may be somebody else's: it is named, and left."""
    files = {
        folder: [file for file in found if file in before["files"].get(folder, []) or not file[0].startswith("docs-2")]
        for folder, found in now["files"].items()
    }
    return {**now, "files": files}


def forget_lost(standin: StandIn, before: dict[str, Any]) -> None:
    known = {name for name, _ in before["files"].get(NAME, [])}
    for name in standin.snapshots(NAME).keys() - known:
        del standin.state.files[NAME][name]


@EACH_WORLD
@pytest.mark.parametrize("fault", ["500", "answer lost"])
def test_a_failure_while_rolling_back_is_made_good_by_the_next(
    world: str, fault: str, standin: StandIn, backup: Backup, tmp_path: Path
) -> None:
    WORLDS[world](standin)
    before = everything(standin)
    at = 0
    with connected(standin.url) as server:
        for at in range(0, MOST, STEP):
            one = returning(server, backup, tmp_path / str(at))
            standin.faults.rules.clear()
            one.prepare()
            one.apply()
            met = disturbed(standin, FAULTS[fault], at)
            with suppress(BackupError):
                one.roll_back()
            one.roll_back()
            assert everything(standin) == before, f"call {at}"
            if not met():
                break
    assert at < MOST - STEP


def test_when_it_cannot_be_put_back_it_is_said_and_can_be_done_later(
    standin: StandIn, backup: Backup, tmp_path: Path
) -> None:
    WORLDS["exact"](standin)
    before = everything(standin)
    with connected(standin.url) as server:
        one = returning(server, backup, tmp_path / "home")
        one.prepare()
        standin.faults.answer("POST", "/upload$", 500, JSON, envelope("Service internal error: broken"), times=2)
        with pytest.raises(QdrantError, match="could not be put back as it was") as raised:
            one.apply()
    assert str(tmp_path / "home") in raised.value.hint
    assert NAME not in standin.collections()

    roll_back(standin, backup, tmp_path / "home")
    assert everything(standin) == before


def test_an_upload_that_fails_leaves_no_file_on_the_server(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    """It stored what it then made no collection of; without one nothing would list the file."""
    WORLDS["new"](standin)
    before = everything(standin)
    with connected(standin.url) as server:
        one = returning(server, backup, tmp_path / "home")
        one.prepare()
        standin.faults.after("POST", "/upload$", lambda: standin.state.collections.pop(NAME))
        with pytest.raises(QdrantError, match="it is not there"):
            one.apply()

    assert everything(standin) == before


def test_an_upload_that_is_answered_too_late_is_waited_for(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    gate = Event()
    looked: list[int] = []

    def let_it_finish() -> None:
        looked.append(1)
        gate.set()

    with connect(standin.url, create_timeout_s=0.2) as server:
        one = returning(server, backup, tmp_path / "home", patience=Patience(looks=50, pause_s=0.05))
        one.prepare()
        standin.faults.before("POST", "/upload$", lambda: standin.faults.hold(gate))
        standin.faults.before("GET", "^/collections$", let_it_finish, skip=2)
        one.apply()

    assert looked
    assert_restored(standin)


@dataclass
class Late:
    """The server has the upload to the exact name whole, and its client hears nothing more."""

    standin: StandIn
    gate: Event
    waited: list[str]

    def begins(self, one: CollectionReturn) -> None:
        one.prepare()
        begun = partial(setattr, self.standin.faults, "unpack_gate", self.gate)
        self.standin.faults.before("POST", f"/{NAME}/snapshots/upload$", begun, times=1)
        one.apply()

    def finishes(self, event: RunEvent) -> None:
        if isinstance(event, StepStarted) and "not answered" in event.label:
            self.waited.append(event.label)
            self.gate.set()

    def looks_on(self, event: RunEvent) -> None:
        if isinstance(event, StepStarted):
            self.waited.append(event.label)


@pytest.fixture
def late(standin: StandIn) -> Late:
    WORLDS["exact"](standin)
    return Late(standin, Event(), [])


def test_what_the_server_finishes_late_does_not_replace_what_is_put_back(
    late: Late, backup: Backup, tmp_path: Path
) -> None:
    before = everything(late.standin)
    with connect(late.standin.url, create_timeout_s=0.5) as server:
        patience = Patience(looks=100, pause_s=0.02)
        one = returning(server, backup, tmp_path / "home", on_event=late.finishes, patience=patience)
        with pytest.raises(QdrantError, match="fell silent"):
            late.begins(one)

        assert len(late.waited) == 1
        assert everything(late.standin) == before
        assert one.left_behind() == ()


def test_what_the_server_may_finish_yet_is_said(late: Late, backup: Backup, tmp_path: Path) -> None:
    before = everything(late.standin)
    with connect(late.standin.url, create_timeout_s=0.5) as server:
        one = returning(server, backup, tmp_path / "home")
        with pytest.raises(QdrantError, match="it replaces what was put back"):
            late.begins(one)

        assert everything(late.standin) == before
        assert "count its points" in one.left_behind()[0]


def test_what_never_arrived_is_not_waited_for(late: Late, backup: Backup, tmp_path: Path) -> None:
    before = everything(late.standin)
    with connect(late.standin.url, create_timeout_s=0.5) as server:
        one = returning(server, backup, tmp_path / "home", on_event=late.looks_on)
        one.prepare()
        late.standin.faults.before("POST", "/upload$", lambda: late.standin.faults.hold(late.gate), times=1)
        with pytest.raises(QdrantError, match="fell silent"):
            one.apply()

    assert everything(late.standin) == before
    assert not any("not answered" in label for label in late.waited)


def test_an_interruption_is_undone_by_whoever_comes_next(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS["exact"](standin)
    before = everything(standin)
    interrupted: list[int] = []

    def interrupt(event: RunEvent) -> None:
        if NAME not in standin.collections():
            interrupted.append(1)
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        restore(standin, backup, tmp_path / "home", on_event=interrupt)
    assert interrupted
    assert NAME not in standin.collections()

    roll_back(standin, backup, tmp_path / "home")
    assert everything(standin) == before


def test_what_went_back_can_be_tried_again(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS["exact"](standin)
    standin.faults.answer("POST", "/upload$", 500, JSON, envelope("Service internal error: not now"))
    with connected(standin.url) as server:
        one = returning(server, backup, tmp_path / "home")
        with pytest.raises(QdrantError, match="not now"):
            one.prepare()
        with pytest.raises(BackupError, match="is back"):
            one.apply()
        one.prepare()
        one.apply()

    assert_restored(standin)


# -- in order, once ------------------------------------------------------------------------------


@EACH_WORLD
def test_each_step_can_be_asked_for_again(world: str, standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS[world](standin)
    home = tmp_path / "home"
    with connected(standin.url) as server:
        for step in ("prepare", "prepare", "apply", "apply", "prepare"):
            getattr(returning(server, backup, home), step)()
        assert_restored(standin)
        returning(server, backup, home).discard()
        returning(server, backup, home).discard()
        assert not (home / "kept").exists()
        assert_restored(standin)
        with pytest.raises(BackupError, match="is discarded"):
            returning(server, backup, home).roll_back()


def test_out_of_order_is_refused(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    with connected(standin.url) as server:
        one = returning(server, backup, tmp_path / "home")
        one.roll_back()
        one.discard()
        with pytest.raises(BackupError, match="was not prepared"):
            one.apply()
        one.prepare()
        with pytest.raises(BackupError, match=f"is {Stage.PREPARED}"):
            one.discard()
    (tmp_path / "home/notes.json").write_text('{"way": "new"}')
    with connected(standin.url) as server, pytest.raises(BackupError, match="cannot be read"):
        returning(server, backup, tmp_path / "home").roll_back()


def test_what_was_kept_and_removed_is_saved_anew(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    """An interrupted restore's folders are made anew before it is prepared again."""
    WORLDS["exact"](standin)
    before = everything(standin)
    home = tmp_path / "home"
    with connected(standin.url) as server:
        returning(server, backup, home).prepare()
        (saved,) = home.rglob("*.snapshot")
        saved.unlink()
        returning(server, backup, home).prepare()
        assert len(list(home.rglob("*.snapshot"))) == 1
        returning(server, backup, home).apply()
        assert_restored(standin)
        returning(server, backup, home).roll_back()

    assert everything(standin) == before


def test_points_written_while_it_is_saved_end_it(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    WORLDS["exact"](standin)
    standin.faults.before("POST", "/docs/snapshots$", lambda: standin.upsert(NAME, points(4, "late")))
    with connected(standin.url) as server, pytest.raises(QdrantError, match=r"written|changed"):
        returning(server, backup, tmp_path / "home").prepare()

    assert standin.count(NAME) == 4
    assert standin.snapshots(NAME).keys() == {FOREIGN}


def test_an_unusual_name_comes_back(standin: StandIn, backup: Backup, tmp_path: Path) -> None:
    odd = "ünï 100%?#"
    standin.create_collection(odd, points(3, "old"), VECTORS)
    before = everything(standin)
    renamed = replace(backup, taken=replace(backup.taken, name=odd))

    restore(standin, renamed, tmp_path / "home")
    assert_restored(standin, odd)
    roll_back(standin, renamed, tmp_path / "home")
    assert everything(standin) == before


def test_an_alias_with_what_no_collection_may_have_is_switched(
    standin: StandIn, backup: Backup, tmp_path: Path
) -> None:
    odd = 'docs: "live"?'
    standin.create_collection("docs-before", points(3, "old"), VECTORS)
    standin.create_alias(odd, "docs-before")
    before = everything(standin)
    renamed = replace(backup, taken=replace(backup.taken, name=odd))

    restore(standin, renamed, tmp_path / "home")
    assert_restored(standin, odd)
    assert standin.state.aliases[odd].startswith("docs_ _live__-restored-")
    roll_back(standin, renamed, tmp_path / "home")
    assert everything(standin) == before


def test_what_create_recorded_comes_back_to_another_server(
    cli: Cli, env: DocMindV2, server: StandIn, tmp_path: Path
) -> None:
    """Through backup.json: points with vectors, indexes, metadata and aliases of both collections."""
    server.create_alias("docs-live", env.text_collection)
    made = cli("create", "-C", env.project, "--only", "qdrant", "--json")
    assert made.code == 0
    directory = Path(made.json()["directory"])
    record = fmt.read_record((directory / "backup.json").read_bytes())
    assert record.qdrant is not None

    with StandIn() as standin, connected(standin.url) as target:
        for number, taken in enumerate(record.qdrant.collections):
            one = returning(target, Backup(taken, directory / taken.path), tmp_path / str(number))
            one.prepare()
            one.apply()

        assert everything(standin) == everything(server)
        assert len(standin.collections()) == 2
