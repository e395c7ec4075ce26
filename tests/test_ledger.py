"""What was begun on a server is remembered, and only what provably is ours is ever deleted there."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import stat
import subprocess
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import FakeServer
from tests.standin import StandIn

from docmind_backup import creating
from docmind_backup import ledger as module
from docmind_backup.collection import Taken, capture_collection
from docmind_backup.core.model import Advanced, Event, Omission, Reason, ignore
from docmind_backup.core.planner import CollectionStep
from docmind_backup.core.qdrant_rest import KEY_SETTING
from docmind_backup.core.server import CollectionServer, ServerSnapshot
from docmind_backup.creating import begin
from docmind_backup.errors import NoSpace, QdrantAbsent, QdrantError, QdrantRefused, QdrantUnclear, QdrantUnreachable
from docmind_backup.ledger import LATE, Begun, Fate, Ledger, clean_up, delete_ours
from docmind_backup.qdrant import connect

NOW = datetime(2026, 7, 18, 5, 27, 55, tzinfo=UTC)
ASKED = "2026-07-18T05:27:55+00:00"
URL = "http://fake:6333"


def begun(collection: str = "docs", name: str = "", *, checksum: str = "", size: int = 0, **fields: object) -> Begun:
    made = Begun("20260718_052755_0123456789ab", URL, collection, ASKED, (), name, checksum, size)
    return replace(made, **fields)


def answered(server: FakeServer, collection: str = "docs", name: str = "ours.snapshot", data: bytes = b"ours") -> Begun:
    """The note of a run that made this snapshot and died; the snapshot is there."""
    server.put(collection, name, data)
    (made,) = (s for s in server.snapshots(collection) if s.name == name)
    return begun(collection).answered(made)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "servers")


@pytest.fixture
def server() -> FakeServer:
    fake = FakeServer(URL, now=NOW)
    fake.add("docs", 25)
    return fake


def names(server: CollectionServer, collection: str = "docs") -> list[str]:
    return [snapshot.name for snapshot in server.snapshots(collection)]


# -- notes ---------------------------------------------------------------------------------------


def test_what_is_written_down_is_read_back_until_it_is_forgotten(ledger: Ledger) -> None:
    note = begun("ünï ' col", "ours.snapshot", checksum="ab" * 32, size=7, before=(("theirs.snapshot", "cd" * 32),))

    assert ledger.pending() == ()
    ledger.write(note)
    assert ledger.pending() == (note,)
    ledger.forget(note)
    ledger.forget(note)
    assert ledger.pending() == ()


def test_the_answer_takes_the_place_of_the_intent(ledger: Ledger) -> None:
    ledger.write(begun())
    ledger.write(begun(name="ours.snapshot"))

    assert [note.name for note in ledger.pending()] == ["ours.snapshot"]


def test_each_call_has_a_note_of_its_own(ledger: Ledger) -> None:
    first, second = begun(), begun(asked_at="2026-07-18T05:27:56+00:00")
    ledger.write(first)
    ledger.write(second)

    ledger.forget(second)

    assert ledger.pending() == (first,)


def test_a_note_of_an_earlier_version_is_read_and_forgotten(ledger: Ledger, tmp_path: Path) -> None:
    folder = tmp_path / "servers"
    folder.mkdir()
    former = folder / f"{begun().backup_id}-{hashlib.sha256(b'docs').hexdigest()[:32]}.json"
    former.write_text(json.dumps(asdict(begun())))

    assert ledger.pending() == (begun(),)
    ledger.forget(begun())
    assert not former.exists()


def test_what_a_later_version_adds_to_a_note_is_passed_over(ledger: Ledger, tmp_path: Path) -> None:
    ledger.write(begun())
    (file,) = (tmp_path / "servers").iterdir()
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "mood": "hopeful"}))

    assert ledger.pending() == (begun(),)


@pytest.mark.parametrize("names", [("a" * 255, "a" * 254 + "b"), ("ü" * 100, "ü" * 99 + "u"), ("a/b", "a b")])
def test_two_collections_have_two_notes_however_alike_their_names(ledger: Ledger, names: tuple[str, str]) -> None:
    for name in names:
        ledger.write(begun(name))

    assert {note.collection for note in ledger.pending()} == set(names)


def test_notes_are_for_nobody_else(ledger: Ledger, tmp_path: Path) -> None:
    ledger.write(begun())

    folder = tmp_path / "servers"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0",
        b"[]",
        b"null",
        b'{"before": []}',
        b'{"before": [["one"]]}',
        b"[" * 100_000,
        json.dumps({"more": 1, "before": [], "asked_at": ASKED}).encode(),
        json.dumps(
            {"backup_id": "i", "url": URL, "collection": "docs", "asked_at": "yesterday", "before": []}
        ).encode(),
        json.dumps({"backup_id": "i", "url": URL, "collection": "docs", "asked_at": 7, "before": []}).encode(),
    ],
)
def test_a_note_that_cannot_be_read_hides_no_other_and_stops_nothing(
    content: bytes, ledger: Ledger, tmp_path: Path, server: FakeServer
) -> None:
    ledger.write(begun())
    (tmp_path / "servers" / "0.json").write_bytes(content)

    assert ledger.pending() == (begun(),)
    assert clean_up(ledger, server) == ()


# -- ours or not ---------------------------------------------------------------------------------

MADE = ServerSnapshot("docs-1.snapshot", 100, "ab" * 32, "2026-07-18T05:27:55")


@pytest.mark.parametrize(
    ("listed", "ours"),
    [
        (MADE, True),
        (replace(MADE, created="2026-07-18T06:00:00"), True),
        (replace(MADE, checksum="cd" * 32), False),
        (replace(MADE, checksum=""), False),
        (replace(MADE, size=101), False),
        (replace(MADE, name="docs-2.snapshot"), False),
    ],
)
def test_ours_is_what_the_server_made_for_us_to_the_last_bit(listed: ServerSnapshot, ours: bool) -> None:
    assert begun().answered(MADE).is_ours(listed) is ours


@pytest.mark.parametrize(("second", "might"), [(54, False), (55, True), (56, True)])
def test_what_bears_an_earlier_second_was_begun_by_somebody_else(second: int, might: bool) -> None:
    late = replace(MADE, name=f"docs-1-2026-07-18-05-27-{second}.snapshot", created="2026-07-18T05:30:00")

    assert begun().might_be_ours(late) is might


def test_a_call_that_was_answered_has_no_other_candidates() -> None:
    assert not begun().answered(MADE).might_be_ours(replace(MADE, name="docs-2.snapshot"))


@pytest.mark.parametrize(
    ("created", "might"),
    [
        ("2026-07-18T05:27:54", False),
        ("2026-07-18T05:27:55", True),
        ("2026-07-18T05:27:55.123", True),
        ("2026-07-18T05:27:56", True),
        ("2026-07-18T09:00:00", True),
        ("2026-07-19T05:27:55", True),
        ("2026-07-19T05:27:56", False),
        ("", True),
        ("not a time", True),
    ],
)
def test_unanswered_what_appeared_within_a_day_might_be_ours(created: str, might: bool) -> None:
    assert begun().might_be_ours(replace(MADE, created=created)) is might


def test_unanswered_what_was_there_before_is_not_ours_and_what_replaced_it_might_be() -> None:
    note = begun(before=((MADE.name, MADE.checksum),))

    assert not note.might_be_ours(MADE)
    assert note.might_be_ours(replace(MADE, checksum="cd" * 32))


# -- cleaning up ---------------------------------------------------------------------------------


def test_a_snapshot_whose_name_was_written_down_is_deleted_and_forgotten(ledger: Ledger, server: FakeServer) -> None:
    ledger.write(answered(server))
    server.put("docs", "theirs.snapshot", b"theirs")

    assert clean_up(ledger, server) == ()

    assert names(server) == ["theirs.snapshot"]
    assert ledger.pending() == ()


def test_what_took_the_place_of_ours_is_left_and_nothing_remembered(ledger: Ledger, server: FakeServer) -> None:
    ledger.write(answered(server))
    server.put("docs", "ours.snapshot", b"theirs")

    assert clean_up(ledger, server) == ()

    assert names(server) == ["ours.snapshot"]
    assert ledger.pending() == ()


def test_ours_of_a_collection_that_is_gone_is_remembered_until_it_reappears(ledger: Ledger, server: FakeServer) -> None:
    ledger.write(answered(server))
    gone = server.collections.pop("docs")
    for _ in range(2):
        assert clean_up(ledger, server) == ()
        assert len(ledger.pending()) == 1

    server.collections["docs"] = gone
    clean_up(ledger, server)

    assert names(server) == []
    assert ledger.pending() == ()


def test_a_call_for_a_collection_that_is_gone_is_not_forgotten_with_the_day(ledger: Ledger, server: FakeServer) -> None:
    ledger.write(begun("gone"))
    server.clock = lambda: NOW + 2 * LATE

    assert clean_up(ledger, server) == ()
    assert len(ledger.pending()) == 1


def test_what_is_ours_by_one_note_is_no_candidate_of_another(ledger: Ledger, server: FakeServer) -> None:
    server.fail(QdrantError("answered 500"), "delete_snapshot")
    ledger.write(answered(server))
    ledger.write(begun(asked_at="2026-07-18T05:27:54+00:00"))

    assert clean_up(ledger, server) == ()
    assert names(server) == ["ours.snapshot"]


def test_what_somebody_else_deleted_already_is_forgotten(ledger: Ledger, server: FakeServer) -> None:
    ledger.write(begun(name="gone.snapshot"))

    assert clean_up(ledger, server) == ()
    assert ledger.pending() == ()
    assert not [call for call in server.calls if call[0] == "delete_snapshot"]


def test_another_servers_notes_wait_for_that_server(ledger: Ledger, server: FakeServer) -> None:
    ledger.write(replace(answered(server), url="http://another:6333"))

    assert clean_up(ledger, server) == ()

    assert names(server) == ["ours.snapshot"]
    assert len(ledger.pending()) == 1


def test_what_only_might_be_ours_is_named_left_and_named_again(ledger: Ledger, server: FakeServer) -> None:
    server.put("docs", "older.snapshot", b"1", at="2026-07-18T05:00:00")
    ledger.write(begun())
    server.put("docs", "since.snapshot", b"2", at="2026-07-18T05:28:00")

    for _ in range(2):
        (candidate,) = clean_up(ledger, server)
        assert (candidate.collection, candidate.snapshot.name) == ("docs", "since.snapshot")
        assert (
            shlex.split(candidate.command.partition("curl")[2])[2] == f"{URL}/collections/docs/snapshots/since.snapshot"
        )
    assert names(server) == ["older.snapshot", "since.snapshot"]


def test_what_another_servers_note_might_mean_is_no_candidate_here(ledger: Ledger, server: FakeServer) -> None:
    ledger.write(begun(url="http://another:6333"))
    server.put("docs", "since.snapshot", b"2", at="2026-07-18T05:28:00")

    assert clean_up(ledger, server) == ()
    assert len(ledger.pending()) == 1


def test_a_call_that_may_have_brought_something_forth_is_not_forgotten_with_the_day(
    ledger: Ledger, server: FakeServer
) -> None:
    ledger.write(begun())
    server.put("docs", "since.snapshot", b"2", at="2026-07-18T05:28:00")
    server.clock = lambda: NOW + 2 * LATE

    for _ in range(2):
        assert [candidate.snapshot.name for candidate in clean_up(ledger, server)] == ["since.snapshot"]
    assert ledger.pending() == (begun(),)


@pytest.mark.parametrize(("waited", "remembered"), [(LATE, True), (LATE + timedelta(seconds=1), False)])
def test_a_call_that_brought_forth_nothing_for_a_day_is_forgotten(
    waited: timedelta, remembered: bool, ledger: Ledger, server: FakeServer
) -> None:
    ledger.write(begun())
    server.clock = lambda: NOW + waited

    assert clean_up(ledger, server) == ()
    assert bool(ledger.pending()) is remembered


def test_what_the_server_refuses_now_is_tried_again_and_holds_up_nothing_else(
    ledger: Ledger, server: FakeServer
) -> None:
    for name in ("a", "b", "c"):
        server.add(name)
        ledger.write(answered(server, name))
    ledger.write(begun("docs"))
    server.put("docs", "since.snapshot", b"2")
    server.fail(QdrantRefused("the API key is read-only"), "delete_snapshot", "b")

    candidates = clean_up(ledger, server)

    assert [names(server, name) for name in ("a", "b", "c")] == [[], ["ours.snapshot"], []]
    assert [candidate.snapshot.name for candidate in candidates] == ["since.snapshot"]
    assert {note.collection for note in ledger.pending()} == {"b", "docs"}


def test_a_server_that_fell_silent_is_not_asked_for_every_note(ledger: Ledger, server: FakeServer) -> None:
    for name in ("a", "b", "c"):
        server.add(name)
        ledger.write(answered(server, name))
    server.calls.clear()
    server.fail(QdrantUnreachable("nothing answers"), "snapshots")

    with pytest.raises(QdrantUnreachable):
        clean_up(ledger, server)

    assert len(server.calls) == 1
    assert len(ledger.pending()) == 3


@given(
    listed=st.lists(
        st.builds(
            ServerSnapshot,
            name=st.sampled_from(["a.snapshot", "b.snapshot"]),
            size=st.integers(0, 2),
            checksum=st.sampled_from(["", "ab", "cd"]),
        ),
        max_size=4,
        unique_by=lambda snapshot: snapshot.name,
    ),
    made=st.builds(
        ServerSnapshot,
        name=st.sampled_from(["", "a.snapshot"]),
        size=st.integers(0, 2),
        checksum=st.sampled_from(["", "ab", "cd"]),
    ),
)
def test_nothing_but_the_very_snapshot_is_ever_deleted(listed: list[ServerSnapshot], made: ServerSnapshot) -> None:
    server = FakeServer(URL, now=NOW)
    server.add("docs")
    server.collections["docs"].snapshots = {snapshot.name: snapshot for snapshot in listed}
    note = begun().answered(made)

    deleted = delete_ours(server, note)

    left = set(server.snapshots("docs"))
    gone = set(listed) - left
    assert left <= set(listed)
    assert gone == {s for s in listed if (s.name, s.size, s.checksum) == (made.name, made.size, made.checksum)}
    assert deleted is (Fate.DELETED if gone else Fate.GONE)


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl to try the command with")
@pytest.mark.parametrize("key", ["", "se\"cret$(id)'"])
@pytest.mark.parametrize("collection", ["plain", "with space", 'it\'s $HOME `id`; "x"', "50%&?#ü", "a'b\\c"])
def test_the_command_for_a_candidate_removes_it_with_the_key_of_the_environment(
    collection: str, key: str, ledger: Ledger
) -> None:
    with StandIn(api_key=key) as stand_in, connect(stand_in.url, api_key=key) as real:
        stand_in.create_collection(collection)
        ledger.write(replace(begun(collection), url=real.url, asked_at=real.now().isoformat()))
        left = stand_in.create_snapshot(collection)

        (candidate,) = clean_up(ledger, real)

        assert list(stand_in.snapshots(collection)) == [left]
        assert not key or key not in candidate.command
        environment = {**os.environ, KEY_SETTING: key, "http_proxy": "http://127.0.0.1:1"}
        subprocess.run(["sh", "-c", candidate.command], env=environment, check=True, capture_output=True)
        assert not stand_in.snapshots(collection)


# -- the order of the writes ---------------------------------------------------------------------


def capture(
    server: CollectionServer,
    ledger: Ledger,
    staging: Path,
    *,
    notes: list[str] | None = None,
    on_event: list[Event] | None = None,
    min_free: int = 0,
) -> Taken | Omission:
    staging.mkdir(exist_ok=True)
    return capture_collection(
        server,
        CollectionStep(server.describe("docs"), PurePosixPath("qdrant/docs"), 0),
        staging,
        backup_id="20260718_052755_0123456789ab",
        ledger=ledger,
        on_event=ignore if on_event is None else on_event.append,
        min_free=min_free,
        notes=[] if notes is None else notes,
    )


def test_the_intent_is_on_the_disk_before_the_call_and_the_name_right_after_it(
    ledger: Ledger, server: FakeServer, tmp_path: Path
) -> None:
    server.put("docs", "theirs.snapshot", b"theirs")
    seen: dict[str, tuple[Begun, ...]] = {}
    for method in ("create_snapshot", "download", "delete_snapshot"):
        server.before(method, lambda method=method: seen.setdefault(method, ledger.pending()))
    server.before("identity", lambda: setattr(server, "clock", lambda: NOW + timedelta(seconds=1)))

    taken = capture(server, ledger, tmp_path / "staging")

    assert not isinstance(taken, Omission)
    (intent,) = seen["create_snapshot"]
    assert (intent.name, intent.collection, intent.url, intent.asked_at) == ("", "docs", URL, ASKED)
    assert [name for name, _ in intent.before] == ["theirs.snapshot"]
    record, _ = taken
    assert seen["download"] == seen["delete_snapshot"]
    assert [(n.name, n.checksum, n.size) for n in seen["download"]] == [
        (record.snapshot_name, record.sha256, record.size)
    ]
    assert ledger.pending() == ()
    assert names(server) == ["theirs.snapshot"]


def test_a_second_that_the_servers_date_has_not_reached_may_be_taken(
    ledger: Ledger, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says 55 at the end of 56; theirs is begun, and listed, in 57, and so would ours be."""
    monkeypatch.setattr(creating, "FREE_WITHIN_S", 0)
    server.before("snapshots", lambda: server.put("docs", "docs-1-2026-07-18-05-27-57.snapshot", b"theirs"))

    with pytest.raises(creating.Crowded):
        creating.begin(server, ledger, "docs", "B")

    assert ledger.pending() == ()


@pytest.mark.parametrize(("ahead_s", "looks"), [(-1, 1), (0, 2), (1, 3), (2, 1)])
def test_the_second_of_a_name_has_passed_when_the_servers_clock_is_beyond_it(
    server: FakeServer, ahead_s: int, looks: int
) -> None:
    """A second ahead: its date lags. Further ahead: somebody set its clock back, and that may take hours."""
    seconds, made = count(), f"docs-1-{NOW + timedelta(seconds=ahead_s):%Y-%m-%d-%H-%M-%S}.snapshot"
    server.put("docs", made, b"ours")
    (listed,) = server.snapshots("docs")
    server.clock = lambda: NOW + timedelta(seconds=next(seconds))

    fate = delete_ours(server, begun().answered(listed, server.identity("docs", made)))

    assert (fate, next(seconds)) == (Fate.DELETED, looks)


def test_a_clock_that_stands_still_is_not_awaited_for_ever(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASSES_WITHIN_S", 0.1)
    listed = server.create_snapshot("docs")

    fate = delete_ours(server, begun().answered(listed, server.identity("docs", listed.name)))

    assert fate is Fate.DELETED


def test_it_is_counted_on_both_sides_of_the_snapshot(ledger: Ledger, server: FakeServer, tmp_path: Path) -> None:
    capture(server, ledger, tmp_path / "staging")

    made = [call[0] for call in server.calls if call[0] in ("count", "create_snapshot", "download")]
    assert made == ["count", "create_snapshot", "count", "download"]


def test_which_one_is_ours_is_told_only_when_two_looks_agree(
    ledger: Ledger, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, and a second client's snapshot appears between the first look and the next."""
    monkeypatch.setattr(creating, "TICK_S", 0)
    call = begin(server, ledger, "docs", "20260718_052755_0123456789ab")
    server.fail(QdrantUnreachable("fell silent"), "create_snapshot")
    looks = iter(("first.snapshot", "second.snapshot"))

    def appear() -> None:
        if name := next(looks, ""):
            server.put("docs", name, name.encode(), at="2026-07-18T05:27:56")

    server.before("snapshots", appear)

    with pytest.raises(QdrantUnclear, match="2 snapshots appeared since"):
        call.snapshot(3600, lambda: None)

    assert [note.name for note in ledger.pending()] == [""]
    assert names(server) == ["first.snapshot", "second.snapshot"]


def test_a_snapshot_of_the_same_second_is_given_time(ledger: Ledger, server: FakeServer, tmp_path: Path) -> None:
    theirs = "docs-1-2026-07-18-05-27-55.snapshot"
    server.put("docs", theirs, b"theirs", at="2026-07-18T05:27:55")
    ticks = iter(range(100))
    server.clock = lambda: NOW + timedelta(seconds=next(ticks))

    taken = capture(server, ledger, tmp_path / "staging")

    assert not isinstance(taken, Omission)
    assert names(server) == [theirs]
    assert taken[0].snapshot_name > theirs


@pytest.mark.parametrize("call", ["count", "snapshots", "create_snapshot", "download"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (QdrantUnreachable("fell silent", hint="wait"), Reason.UNREACHABLE),
        (QdrantRefused("read-only", hint="another key"), Reason.REFUSED),
        (QdrantError("answered 500: whatever", hint="look"), Reason.UNREACHABLE),
        (QdrantAbsent("nothing answers", hint="start it"), Reason.UNREACHABLE),
        (QdrantUnclear("answered 520: (nothing more)", hint="look"), Reason.UNREACHABLE),
    ],
)
def test_whatever_the_server_refuses_is_an_omission_and_leaves_no_trace_here(
    error: QdrantError, reason: Reason, call: str, ledger: Ledger, server: FakeServer, tmp_path: Path
) -> None:
    server.fail(error, call)

    taken = capture(server, ledger, tmp_path / "staging")

    assert isinstance(taken, Omission)
    assert (taken.source, taken.reason, taken.detail) == ("docs", reason, f"{error}; {error.hint}")
    assert list((tmp_path / "staging").iterdir()) == []
    unanswered = call == "create_snapshot" and error.may_be_done
    assert bool(ledger.pending()) is unanswered
    if call != "snapshots":
        assert names(server) == []


def test_what_cannot_be_deleted_now_is_noted_and_written_down(
    ledger: Ledger, server: FakeServer, tmp_path: Path
) -> None:
    server.fail(QdrantError("answered 500"), "delete_snapshot")
    notes: list[str] = []

    taken = capture(server, ledger, tmp_path / "staging", notes=notes)

    assert not isinstance(taken, Omission)
    assert [note.name for note in ledger.pending()] == names(server) == [taken[0].snapshot_name]
    assert [note for note in notes if "still on the server (answered 500)" in note]


def test_a_snapshot_that_cannot_fit_is_not_fetched_and_not_left(
    ledger: Ledger, server: FakeServer, tmp_path: Path
) -> None:
    with pytest.raises(NoSpace):
        capture(server, ledger, tmp_path / "staging", min_free=2**60)

    assert names(server) == []
    assert ledger.pending() == ()
    assert not [call for call in server.calls if call[0] == "download"]


def test_every_byte_is_told_on_its_way(ledger: Ledger, server: FakeServer, tmp_path: Path) -> None:
    events: list[Event] = []

    taken = capture(server, ledger, tmp_path / "staging", on_event=events)

    assert not isinstance(taken, Omission)
    advanced = [event for event in events if isinstance(event, Advanced)]
    assert sum(event.bytes for event in advanced) == taken[0].size
    assert all(event.downloaded for event in advanced)
