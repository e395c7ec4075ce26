"""A restore, decided and not done: what stands in the way, what happens in which order, what it overwrites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.values import (
    DATA,
    ENVIRONMENT,
    NOON,
    PROJECT,
    absent,
    backup,
    captured,
    collection,
    qdrant,
    seen,
    stored,
)

from docmind_backup.core.fitness import KDF, version_problem
from docmind_backup.core.model import (
    Backup,
    CollectionState,
    Kind,
    Layout,
    Omission,
    Part,
    Placement,
    Reason,
    Seal,
    Seen,
    Source,
    Totals,
)
from docmind_backup.core.restore import (
    Action,
    Place,
    RestorePlan,
    RestoreStep,
    Target,
    TargetQdrant,
    plan_restore,
)

GB = 10**9
INTACT = Seal("0" * 64, NOON, "full", intact=True)
SERVER = TargetQdrant("http://127.0.0.1:6333", "1.18.3", aliases={})
FULL = backup(
    stored(Part.IDENTITY, 1, 37),
    stored(Part.STORAGE, 9, 900),
    stored(Part.UPLOADS, 7, 700),
    stored(Part.CHAT, 1, 100),
    stored(Part.CACHE, 2, 200),
    stored(Part.ENV, 1, 50),
    seal=INTACT,
)
TWO = qdrant(captured("docs__1", "text", 25, 1000), captured("images__1", "image", 7, 500))


def place(what: Seen, *sidecars: str, file_system: str = "1", free: int = 100 * GB) -> Place:
    return Place(what, sidecars, file_system, free)


def target(*places: Place, server: TargetQdrant | None = SERVER, layout: Layout = Layout.V2) -> Target:
    """A target where nothing is, but for `places`."""
    parts = {p.seen.source.part for p in places}
    others = (Part.IDENTITY, Part.STORAGE, Part.UPLOADS, Part.CHAT, Part.CACHE, Part.ENV)
    return Target(ENVIRONMENT, layout, (*places, *(place(absent(p)) for p in others if p not in parts)), server)


def plan(one: Backup = FULL, where: Target | None = None, **changes: Any) -> RestorePlan:
    return plan_restore(replace(one, record=replace(one.record, **changes)), where or target())


def steps(decided: RestorePlan, action: Action) -> dict[str, RestoreStep]:
    return {step.what: step for step in decided.steps if step.action is action}


# -- the steps -----------------------------------------------------------------------------------


def test_a_restore_to_an_empty_target_checks_stops_copies_and_starts_in_that_order() -> None:
    decided = plan()

    assert [step.action for step in decided.steps] == [
        Action.CHECK,
        Action.STOP,
        *[Action.COPY] * 5,
        Action.MERGE,
        Action.START,
    ]
    assert (decided.blockers, decided.warnings) == ((), ())
    assert (decided.backup_id, decided.directory) == (FULL.id, str(FULL.directory))
    assert {what: step.target for what, step in steps(decided, Action.COPY).items()} == {
        "data/.deployment-id": str(DATA / ".deployment-id"),
        "data/storage": str(DATA / "storage"),
        "data/uploads": str(DATA / "uploads"),
        "data/chat.db": str(DATA / "chat.db"),
        "cache/docmind.duckdb": str(PROJECT / "cache/ingestion/docmind.duckdb"),
    }


def test_what_is_there_leaves_first_with_what_it_is() -> None:
    decided = plan(where=target(place(seen(Part.UPLOADS, 3, 4321)), place(seen(Part.STORAGE, 1, 10))))

    moved = steps(decided, Action.MOVE_ASIDE)
    assert {what: step.overwrites for what, step in moved.items()} == {
        "data/uploads": "3 files, 4.3 kB",
        "data/storage": "1 file, 10 B",
    }
    actions = [step.action for step in decided.steps]
    assert actions.index(Action.STOP) < actions.index(Action.MOVE_ASIDE)
    assert max(i for i, a in enumerate(actions) if a is Action.MOVE_ASIDE) < actions.index(Action.COPY)


@pytest.mark.parametrize(
    ("part", "sidecars"), [(Part.CHAT, ("chat.db-wal", "chat.db-shm")), (Part.CACHE, ("docmind.duckdb.wal",))]
)
def test_a_database_leaves_together_with_every_sidecar(part: Part, sidecars: tuple[str, ...]) -> None:
    decided = plan(where=target(place(seen(part), *sidecars)))

    (step,) = steps(decided, Action.MOVE_ASIDE).values()
    assert step.notes == tuple(f"with {name}" for name in sidecars)


def test_a_stale_sidecar_leaves_also_where_its_database_is_gone() -> None:
    decided = plan(where=target(place(absent(Part.CHAT), "chat.db-wal")))

    assert steps(decided, Action.MOVE_ASIDE)["data/chat.db"].notes == ("with chat.db-wal",)


def test_settings_are_merged_by_hand_and_never_moved_or_copied() -> None:
    for there in (seen(Part.ENV), absent(Part.ENV)):
        decided = plan(where=target(place(there)))

        assert ".env" not in {**steps(decided, Action.COPY), **steps(decided, Action.MOVE_ASIDE)}
        assert steps(decided, Action.MERGE)[".env"].target == str(PROJECT / ".env")
        assert "it holds secrets" in steps(decided, Action.MERGE)[".env"].notes


def test_a_duckdb_with_its_wal_goes_back_with_it_or_not_at_all() -> None:
    assert steps(plan(), Action.COPY)["cache/docmind.duckdb"].notes == ("main file and .wal together, both or neither",)
    alone = backup(stored(Part.CACHE, 1, 100), seal=INTACT)
    assert steps(plan(alone), Action.COPY)["cache/docmind.duckdb"].notes == ()


def test_times_of_uploads_have_to_be_exact_in_v1() -> None:
    v1 = plan(where=target(layout=Layout.V1), layout=Layout.V1)

    assert any("nanosecond" in note for note in steps(v1, Action.COPY)["data/uploads"].notes)
    assert steps(plan(), Action.COPY)["data/uploads"].notes == ()


def test_uploads_in_flight_go_to_the_side_for_a_person_to_look_at() -> None:
    pending = replace(stored(Part.UPLOADS), stored="data/.pending-uploads")

    decided = plan(backup(pending, seal=INTACT))

    assert any("beside" in note for note in steps(decided, Action.COPY)["data/.pending-uploads"].notes)


def test_a_database_with_another_name_on_the_target_goes_there() -> None:
    source = Source(Part.CHAT, Kind.SQLITE, "chats.db", Path("/mnt/chats.db"), PurePosixPath("data/chats.db"))

    decided = plan(where=target(place(Seen(source, 1, 10))))

    assert steps(decided, Action.COPY)["data/chat.db"].target == "/mnt/chats.db"
    assert steps(decided, Action.MOVE_ASIDE)["data/chat.db"].target == "/mnt/chats.db"


def test_what_the_target_has_no_place_for_goes_where_it_was_and_is_warned_of() -> None:
    old = backup(stored(Part.ANALYTICS, origin="/old/analytics.duckdb"), seal=INTACT)

    decided = plan(old)

    assert steps(decided, Action.COPY)["data/analytics/analytics.duckdb"].target == "/old/analytics.duckdb"
    assert any("/old/analytics.duckdb" in warning for warning in decided.warnings)


def test_a_source_that_held_nothing_is_no_step_and_one_empty_folder_is() -> None:
    nothing = stored(Part.ARTIFACTS, 0, 0)
    folder = replace(stored(Part.STORAGE), totals=Totals(directories=1))

    decided = plan(backup(nothing, folder, seal=INTACT))

    assert set(steps(decided, Action.COPY)) == {"data/storage"}


def test_the_bytes_are_those_of_files_and_collections() -> None:
    assert plan().bytes == 37 + 900 + 700 + 100 + 200
    assert plan(qdrant=TWO).bytes == 37 + 900 + 700 + 100 + 200 + 1500


# -- room ----------------------------------------------------------------------------------------


def test_everything_restored_needs_room_beside_the_old_on_each_file_system() -> None:
    decided = plan(
        where=target(
            place(seen(Part.UPLOADS, 7, 700), free=5 * GB),
            place(seen(Part.CACHE), file_system="2", free=3 * GB),
        )
    )

    room = {one.free: one.needed for one in decided.space}
    assert room[3 * GB] == 200
    assert sum(room.values()) == 37 + 900 + 700 + 100 + 200 + 50
    assert decided.blockers == ()


@pytest.mark.parametrize(("free", "blocked"), [(199, True), (200, False)])
def test_too_little_room_blocks_and_says_how_much(free: int, blocked: bool) -> None:
    decided = plan(where=target(place(seen(Part.CACHE), file_system="2", free=free)))

    assert [b for b in decided.blockers if "200 bytes are needed" in b and f"{free} are free" in b] == (
        list(decided.blockers)
    )
    assert bool(decided.blockers) is blocked


# -- what stands in the way ----------------------------------------------------------------------


def test_a_backup_known_to_be_damaged_blocks() -> None:
    (blocker,) = plan(replace(FULL, seal=replace(INTACT, intact=False))).blockers

    assert "damage" in blocker


def test_a_place_that_cannot_be_looked_at_blocks() -> None:
    (blocker,) = plan(where=target(place(replace(absent(Part.CHAT), problem="it is not a regular file")))).blockers

    assert "it is not a regular file" in blocker


@pytest.mark.parametrize("part", [Part.UPLOADS, Part.CHAT, Part.ENV])
def test_a_link_blocks_unless_it_leads_where_the_source_was(part: Part) -> None:
    there = replace(place(absent(part)), link="/elsewhere/link")
    leads_to = str(there.seen.source.path)
    sources = [replace(s, origin="/was/here") if s.part is part else s for s in FULL.record.sources]
    led_there = [replace(s, origin=leads_to) for s in sources]

    blockers = plan(where=target(there), sources=tuple(sources)).blockers

    assert [f"/elsewhere/link is a link to {leads_to}, and " in one for one in blockers] == [True] * (part != Part.ENV)
    assert plan(where=target(there), sources=tuple(led_there)).blockers == ()


def on(where: TargetQdrant | None, **changes: Any) -> RestorePlan:
    server = replace(where, **changes) if where else None
    return plan(where=target(server=server), qdrant=TWO)


def test_collections_are_uploaded_under_their_own_names_with_what_they_overwrite() -> None:
    decided = on(SERVER, collections=(collection("images__1", points=1234),), names=("images__1", "other"))

    uploads = steps(decided, Action.UPLOAD)
    assert decided.blockers == ()
    assert [u.target for u in uploads.values()] == [
        "http://127.0.0.1:6333/collections/docs__1",
        "http://127.0.0.1:6333/collections/images__1",
    ]
    assert [u.overwrites for u in uploads.values()] == ["", "the collection of that name, 1,234 points"]
    assert [bool(u.notes) for u in uploads.values()] == [False, True]


@pytest.mark.parametrize(
    ("where", "changes", "words"),
    [
        (None, {}, "none is configured"),
        (SERVER, {"error": "nothing answered"}, "nothing answered"),
        (SERVER, {"peers": 3}, "cluster of 3 nodes"),
        (SERVER, {"version": "1.17.9"}, "1.17.9"),
        (SERVER, {"version": ""}, "cannot be compared"),
    ],
)
def test_a_target_that_cannot_take_the_collections_blocks(
    where: TargetQdrant | None, changes: Mapping[str, Any], words: str
) -> None:
    (blocker,) = on(where, **changes).blockers

    assert words in blocker


def test_without_collections_in_the_backup_no_server_is_needed() -> None:
    assert plan(where=target(server=None)).blockers == ()


def test_what_could_not_be_put_back_blocks() -> None:
    there = replace(collection("docs__1", points=3), sharding="custom")
    (blocker,) = on(SERVER, collections=(there,), names=("docs__1",)).blockers

    assert blocker == "Qdrant's docs__1 has custom sharding: once it was replaced, it could not be put back"
    assert on(SERVER, collections=(there,), aliases={"docs__1": "docs__0"}, names=("docs__0",)).blockers == ()


def test_custom_sharding_blocks() -> None:
    custom = qdrant(captured("docs__1", "text", sharding="custom"))

    (blocker,) = plan(qdrant=custom).blockers

    assert "brings no points" in blocker


def test_a_snapshot_of_a_part_of_the_shards_blocks() -> None:
    part = qdrant(captured("docs__1", "text", placement=Placement((1,), (0,))))

    (blocker,) = plan(qdrant=part).blockers

    assert "shard 0 was on another node" in blocker


def test_a_version_that_only_experience_speaks_against_is_a_warning() -> None:
    old = replace(TWO, version="1.15.5")

    decided = plan(where=target(server=replace(SERVER, version="1.16.3")), qdrant=old)

    assert decided.blockers == ()
    (warning,) = decided.warnings
    assert "RocksDB" in warning


def test_keys_are_held_against_the_record_and_said_among_the_checks() -> None:
    made = {"kdf": KDF, "salt": "ab" * 16, "image_key": "11", "hmac_secret": "22"}

    decided = plan(where=replace(target(), keys={**made, "image_key": "99"}), key_fingerprints=made)

    (warning,) = decided.warnings
    assert "the target's image key is not the backup's" in warning
    notes = {check.what: check.note for check in decided.checks if check.note}
    assert notes == {"image key": "the target has another one", "HMAC secret": "the target has the same"}


def with_alias(alias: str = "docs", **server: Any) -> RestorePlan:
    taken = qdrant(captured("docs__1", "text", aliases=(alias,)))
    return plan(where=target(server=replace(SERVER, **server)), qdrant=taken)


def test_aliases_are_set_after_the_upload_because_snapshots_have_none() -> None:
    decided = with_alias()

    step = steps(decided, Action.ALIAS)["docs"]
    assert step.target == "docs__1"
    assert decided.blockers == decided.warnings == ()
    actions = [s.action for s in decided.steps]
    assert actions.index(Action.UPLOAD) < actions.index(Action.ALIAS) < actions.index(Action.START)


def test_an_alias_that_points_elsewhere_now_is_warned_of() -> None:
    assert with_alias(aliases={"docs": "docs__1"}).warnings == ()
    (warning,) = with_alias(aliases={"docs": "docs__2"}).warnings
    assert "docs points to docs__2" in warning


def test_an_alias_with_the_name_of_a_live_collection_blocks() -> None:
    (blocker,) = with_alias(names=("docs", "other")).blockers

    assert "docs is an alias of docs__1 in the backup and a collection on the target" in blocker


def test_an_embedded_storage_is_files_to_copy_and_no_server() -> None:
    embedded = qdrant(captured("docs__1", "text"), embedded=True, url="path:/srv/qdrant")

    decided = plan(where=target(server=None), qdrant=embedded)

    assert decided.blockers == ()
    assert not steps(decided, Action.UPLOAD)
    assert any("pickle" in warning for warning in decided.warnings)


@pytest.mark.parametrize(
    ("made_with", "target_version", "fits"),
    [
        ("1.18.3", "1.18.3", True),
        ("1.18.3", "1.18.4", True),
        ("1.18.3", "1.18.2", False),
        ("1.18.3", "1.19.0", True),
        ("1.18.3", "1.19.9", True),
        ("1.18.3", "1.20.0", False),
        ("1.18.3", "1.17.9", False),
        ("1.18.3", "2.18.3", False),
        ("1.18.3", "2.0.0", False),
        ("1.9.0", "1.10.0", True),
        ("1.18.3", "1.18.4-dev", True),
        ("1.18.3", "", False),
        ("", "1.18.3", False),
        ("unknown", "1.18.3", False),
    ],
)
def test_a_snapshot_goes_to_its_own_minor_version_or_the_next(made_with: str, target_version: str, fits: bool) -> None:
    problem = version_problem(made_with, target_version)

    assert (problem == "") is fits
    assert fits or (target_version in problem and made_with in problem)


# -- warnings and checks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"omissions": (Omission(Part.LOGS, "logs", Reason.GONE),)}, "lacks logs: logs (gone)"),
        ({"layout": Layout.V1}, "v1"),
        ({"key_fingerprints": {"image_key": "ab"}}, "image key"),
    ],
)
def test_what_is_worth_knowing_is_a_warning_and_no_blocker(changes: Mapping[str, Any], words: str) -> None:
    decided = plan(**changes)

    assert decided.blockers == ()
    (warning,) = decided.warnings
    assert words in warning


def test_a_backup_nobody_verified_says_so() -> None:
    (warning,) = plan(replace(FULL, seal=None)).warnings

    assert "never verified" in warning


def test_afterwards_the_restored_things_are_held_against_the_record() -> None:
    decided = plan(
        qdrant=replace(TWO, collections=(replace(TWO.collections[0], points_min=24), TWO.collections[1])),
        index_snapshots=({"name": "20260718T052755-0a1b2c3d", "active": True},),
        included=(*FULL.record.included, Part.QDRANT),
    )

    assert {c.what: c.expected for c in decided.checks} == {
        "files": "21, each with the sha256 of SHA256SUMS",
        "data/storage/CURRENT": "20260718T052755-0a1b2c3d",
        "data/.deployment-id": "d1",
        "points in docs__1": "24 to 25",
        "points in images__1": "7",
    }


@given(
    st.lists(st.sampled_from([Part.IDENTITY, Part.STORAGE, Part.UPLOADS, Part.CHAT, Part.CACHE]), unique=True),
    st.lists(st.sampled_from([Part.IDENTITY, Part.STORAGE, Part.UPLOADS, Part.CHAT, Part.CACHE]), unique=True),
)
def test_every_captured_source_is_copied_once_and_nothing_else_on_the_target_is_touched(
    held: list[Part], there: list[Part]
) -> None:
    decided = plan(backup(*map(stored, held), seal=INTACT), target(*(place(seen(part)) for part in there)))

    assert list(steps(decided, Action.COPY)) == [stored(part).stored for part in held]
    assert set(steps(decided, Action.MOVE_ASIDE)) == {stored(part).stored for part in held if part in there}


def test_collections_that_nobody_saved_are_not_touched() -> None:
    there: tuple[CollectionState, ...] = (collection("other"),)

    decided = plan(where=target(server=replace(SERVER, collections=there, names=("other",))), qdrant=TWO)

    assert not any("other" in step.target for step in decided.steps)
