"""What a backup will do, hold and lack: decided from what scan saw and from the backups there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.core.values import (
    DATA,
    ENVIRONMENT,
    NOON,
    absent,
    backup,
    captured,
    collection,
    in_flight,
    qdrant,
    seen,
    stored,
)

from docmind_backup.core.environment import Choices
from docmind_backup.core.format import contained
from docmind_backup.core.model import (
    Backup,
    CollectionState,
    IndexSnapshot,
    Layout,
    Omission,
    Part,
    QdrantState,
    Reason,
    Scope,
    Seal,
    Seen,
    Shrink,
)
from docmind_backup.core.planner import (
    ORDER,
    BackupPlan,
    CollectionStep,
    FileStep,
    Inventory,
    Watch,
    folder_name,
    plan_backup,
)

INDEX = IndexSnapshot(
    "20260718T052755-0a1b2c3d",
    "2.0",
    "2.0.1",
    {"text": "docs__1", "image": "images__1"},
    collection_metadata={"text": {"d": "1"}, "image": {"d": "1"}},
)
EVERYTHING = (
    seen(Part.IDENTITY),
    seen(Part.STORAGE, 9),
    seen(Part.UPLOADS, 7),
    seen(Part.ARTIFACTS, 14),
    seen(Part.CHAT),
    seen(Part.CACHE),
    seen(Part.ANALYTICS),
    seen(Part.LOGS, 2),
    seen(Part.ENV),
)
TEXT, IMAGE = (
    collection("docs__1", "text", metadata={"d": "1"}),
    collection("images__1", "image", 7, metadata={"d": "1"}),
)
SERVER = QdrantState("http://127.0.0.1:6333", "1.18.3", collections=(TEXT, IMAGE))
DAMAGED = Seal("0" * 64, NOON, "full", intact=False)


def inventory(*found: Seen, server: QdrantState | None = SERVER, **changes: Any) -> Inventory:
    """A v2 environment; each of `found` replaces what is there of that part."""
    replaced = {one.source.stored for one in found}
    there = (*found, *(one for one in EVERYTHING if one.source.stored not in replaced))
    watch = Watch(INDEX.name, "d1", 5)
    made = Inventory(ENVIRONMENT, Layout.V2, "d1", there, (INDEX,), INDEX.name, qdrant=server, watch=watch)
    return replace(made, **changes)


def plan(found: Inventory | None = None, *history: Backup, choices: Choices | None = None, **choice: Any) -> BackupPlan:
    return plan_backup(
        found or inventory(),
        choices or Choices(**choice),
        history,
        backup_id="20261121_120000_0123456789ab",
        sequence=3,
        now=NOON,
    )


def lacks(decided: BackupPlan) -> list[tuple[str, str]]:
    return [(o.source, o.reason) for o in decided.omissions]


def parts(decided: BackupPlan) -> list[Part]:
    return [s.source.part if isinstance(s, FileStep) else Part.QDRANT for s in decided.steps]


# -- what it will do -----------------------------------------------------------------------------


def test_a_healthy_environment_is_captured_whole_and_what_belongs_together_close_together() -> None:
    decided = plan(include_analytics=True, include_logs=True, include_env=True)

    assert parts(decided) == [p for p in ORDER for _ in range(2 if p is Part.QDRANT else 1)]
    assert (decided.omissions, decided.notes, decided.shrinks, decided.absent_accepted) == ((), (), (), ())
    assert (decided.id, decided.sequence, decided.started_at) == ("20261121_120000_0123456789ab", 3, NOON)


@pytest.mark.parametrize(
    ("layout", "choices", "expected"),
    [
        (Layout.V2, Choices(), "cache chat storage identity artifacts uploads qdrant"),
        (Layout.V2, Choices(include_uploads=False), "cache chat storage identity artifacts qdrant"),
        (Layout.V2, Choices(qdrant="off"), "cache chat storage identity artifacts uploads"),
        (
            Layout.V2,
            Choices(include_logs=True, include_env=True),
            "cache chat storage identity artifacts uploads logs env qdrant",
        ),
        (Layout.V2, Choices(only=frozenset({Part.QDRANT})), "qdrant"),
        (Layout.V2, Choices(only=frozenset({Part.LOGS}), include_env=True), "logs"),
        (Layout.V1, Choices(), "cache chat storage qdrant"),
        (
            Layout.V1,
            Choices(include_uploads=True, include_analytics=True),
            "cache chat storage uploads analytics qdrant",
        ),
    ],
)
def test_the_scope_is_what_was_asked_for_and_steps_are_only_of_it(
    layout: Layout, choices: Choices, expected: str
) -> None:
    decided = plan(inventory(layout=layout), choices=choices)

    assert decided.scope.parts == {Part(word) for word in expected.split()}
    assert set(parts(decided)) <= decided.scope.parts
    assert (decided.scope.data_dir, decided.scope.deployment_id) == (str(DATA), "d1")


def test_collections_are_a_scope_by_role_unless_they_were_named() -> None:
    assert plan().scope.collections == {"role:text", "role:image"}
    assert plan(collections=("a", "b")).scope.collections == {"name:a", "name:b"}
    assert plan(qdrant="off").scope.collections == frozenset()


def test_what_was_switched_off_leaves_no_trace() -> None:
    decided = plan(inventory(server=None), backup(stored(Part.LOGS)), qdrant="off")

    assert lacks(decided) == []
    assert decided.qdrant is None


def test_index_snapshots_are_named_only_where_storage_is_captured() -> None:
    assert plan().snapshots == (INDEX,)
    assert plan(only=frozenset({Part.UPLOADS})).snapshots == ()


def test_space_is_asked_for_what_is_copied_and_downloaded_and_for_the_records() -> None:
    decided = plan(inventory(seen(Part.UPLOADS, 1000, 10**9)))

    assert decided.copy_bytes == sum(s.bytes for s in decided.steps if isinstance(s, FileStep))
    assert decided.download_bytes == sum(s.bytes for s in decided.steps if isinstance(s, CollectionStep))
    assert decided.bytes_needed >= decided.copy_bytes + decided.download_bytes + 1000 * 300
    assert decided.files_needed > 1000


def test_a_snapshots_size_is_guessed_from_the_last_backup_and_else_from_its_vectors() -> None:
    def bytes_of(decided: BackupPlan) -> list[int]:
        return [step.bytes for step in decided.steps if isinstance(step, CollectionStep)]

    history = backup(qdrant=qdrant(captured("docs__0", "text", 10, 1_000_000)))
    grown = inventory(server=replace(SERVER, collections=(replace(TEXT, points=20),)))
    large = inventory(server=replace(SERVER, collections=(replace(TEXT, points=10**6),)))

    assert 2_000_000 <= bytes_of(plan(grown, history))[0] <= 2_500_000
    assert bytes_of(plan(large))[0] > 10**6 * 8 * 4


# -- what is missing, and whether that matters ---------------------------------------------------


def test_a_store_that_was_never_made_is_a_note_and_no_lack() -> None:
    decided = plan(inventory(absent(Part.CHAT)))

    assert lacks(decided) == []
    assert any("data/chat.db does not exist" in note for note in decided.notes)
    assert Part.CHAT not in parts(decided)


@pytest.mark.parametrize("part", [Part.CHAT, Part.UPLOADS, Part.STORAGE, Part.CACHE, Part.IDENTITY])
def test_what_the_last_backup_holds_and_is_not_there_is_gone(part: Part) -> None:
    decided = plan(inventory(absent(part)), backup(stored(part, 7, 700)))

    assert lacks(decided) == [(seen(part).source.name, Reason.GONE)]
    assert "7 files, 700 bytes" in decided.omissions[0].detail


@pytest.mark.parametrize(("part", "empty"), [(Part.UPLOADS, (0, 0)), (Part.CHAT, (1, 0))])
def test_what_the_last_backup_holds_and_is_empty_is_emptied_and_still_captured(
    part: Part, empty: tuple[int, int]
) -> None:
    decided = plan(inventory(seen(part, *empty)), backup(stored(part, 7, 700)))

    assert lacks(decided) == [(seen(part).source.name, Reason.EMPTIED)]
    assert part in parts(decided)


def test_what_was_already_empty_in_the_last_backup_is_not_emptied() -> None:
    assert lacks(plan(inventory(seen(Part.UPLOADS, 0, 0)), backup(stored(Part.UPLOADS, 0, 0)))) == []


def test_the_newest_backup_that_holds_it_decides_also_one_that_does_not_count() -> None:
    lacking = backup(sequence=2, omissions=(Omission(Part.CHAT, "data/chat.db", Reason.GONE),))
    holding = backup(stored(Part.CHAT), sequence=1, omissions=(Omission(Part.CACHE, "cache", Reason.DAMAGED),))

    assert lacks(plan(inventory(absent(Part.CHAT)), lacking, holding)) == [("data/chat.db", Reason.GONE)]


def test_an_accepted_absence_is_no_lack_and_is_remembered_until_it_is_there_again() -> None:
    before = backup(stored(Part.CHAT))

    accepted = plan(inventory(absent(Part.CHAT)), before, accept_shrink=True)
    assert (lacks(accepted), accepted.absent_accepted) == ([], ("data/chat.db",))

    since = backup(sequence=2, absent_accepted=accepted.absent_accepted)
    assert lacks(plan(inventory(absent(Part.CHAT)), since, before)) == []
    again = backup(stored(Part.CHAT), sequence=3)
    assert lacks(plan(inventory(absent(Part.CHAT)), again, since, before)) == [("data/chat.db", Reason.GONE)]


def test_collections_that_no_index_snapshot_names_any_more_are_saved_until_that_is_accepted() -> None:
    """They are still on the server: what the last backup has of them is not all there ever was."""
    held = backup(qdrant=qdrant(captured("docs__1", "text"), captured("images__1", "image", 7)))
    found = inventory(server=replace(SERVER, unclaimed=True), active="", snapshots=())

    lacking, accepted = plan(found, held), plan(found, held, accept_shrink=True)

    assert parts(lacking).count(Part.QDRANT) == 2
    assert lacks(lacking) == [("text collection", Reason.GONE), ("image collection", Reason.GONE)]
    assert (parts(accepted).count(Part.QDRANT), lacks(accepted)) == (0, [])


def test_backups_of_another_data_directory_say_nothing_about_this_one() -> None:
    elsewhere = Scope("/srv/other/data", "d1", frozenset(Part), frozenset())

    decided = plan(inventory(absent(Part.CHAT)), backup(stored(Part.CHAT, 9, 10**6), scope=elsewhere))

    assert lacks(decided) == []


def test_uploads_in_flight_come_and_go() -> None:
    row = replace(stored(Part.UPLOADS), stored="data/.pending-uploads")

    assert lacks(plan(inventory(in_flight(0)), backup(row))) == []
    assert Part.UPLOADS in parts(plan(inventory(in_flight(3))))


def test_what_cannot_be_looked_at_is_unreadable_with_the_systems_own_words() -> None:
    decided = plan(inventory(seen(Part.CHAT, 0, 0, exists=False, problem="Permission denied")))

    assert decided.omissions == (Omission(Part.CHAT, "data/chat.db", Reason.UNREADABLE, "Permission denied"),)
    assert not any("chat.db" in note for note in decided.notes)


def test_a_damaged_activation_is_a_lack_where_storage_is_captured() -> None:
    broken = inventory(active_problem="CURRENT names x, which is missing")

    assert lacks(plan(broken)) == [("data/storage/CURRENT", Reason.DAMAGED)]
    assert lacks(plan(broken, only=frozenset({Part.LOGS}))) == []


# -- Qdrant --------------------------------------------------------------------------------------


def server(*collections: CollectionState) -> Inventory:
    return inventory(server=replace(SERVER, collections=collections))


def test_a_silent_server_is_one_lack_and_nothing_is_taken_from_it() -> None:
    silent = QdrantState("http://127.0.0.1:6333", error="nothing answered", reason=Reason.UNREACHABLE)

    decided = plan(inventory(server=silent), backup(qdrant=qdrant(captured("docs__1", "text"))))

    assert decided.omissions == (
        Omission(Part.QDRANT, "http://127.0.0.1:6333", Reason.UNREACHABLE, "nothing answered"),
    )
    assert Part.QDRANT not in parts(decided)


def test_a_collection_that_current_names_is_never_never_made() -> None:
    assert lacks(plan(server(TEXT, replace(IMAGE, exists=False)))) == [("images__1", Reason.MISSING)]


def test_a_collection_that_was_asked_for_by_name_has_to_be_there() -> None:
    gone = CollectionState("mine", "", exists=False)

    assert lacks(plan(server(gone), collections=("mine",))) == [("mine", Reason.MISSING)]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ((TEXT, replace(IMAGE, exists=False)), [("images__1", Reason.GONE)]),
        ((TEXT, replace(IMAGE, points=0)), [("images__1", Reason.EMPTIED)]),
        ((TEXT, replace(IMAGE, name="images__2")), []),
        ((TEXT,), [("image collection", Reason.GONE)]),
        ((), [("text collection", Reason.GONE), ("image collection", Reason.GONE)]),
    ],
)
def test_a_collection_is_the_one_of_its_role_whatever_it_is_called_now(
    now: tuple[CollectionState, ...], expected: Sequence[tuple[str, str]]
) -> None:
    before = backup(qdrant=qdrant(captured("docs__0", "text"), captured("images__0", "image", 7)))

    assert lacks(plan(server(*now), before)) == list(expected)


def test_an_accepted_loss_of_a_collection_is_remembered_by_its_role() -> None:
    before = backup(qdrant=qdrant(captured("docs__0", "text"), captured("images__0", "image", 7)))

    for now in ((TEXT, replace(IMAGE, points=0)), (TEXT,)):
        accepted = plan(server(*now), before, accept_shrink=True)
        assert (lacks(accepted), accepted.absent_accepted) == ([], ("image",))
        since = backup(sequence=2, absent_accepted=("image",), qdrant=qdrant(captured("docs__1", "text")))
        assert lacks(plan(server(*now), since, before)) == []


def test_a_missing_collection_that_current_names_cannot_be_accepted_away() -> None:
    assert lacks(plan(server(TEXT, replace(IMAGE, exists=False)), accept_shrink=True)) == [
        ("images__1", Reason.MISSING)
    ]


def test_metadata_that_is_not_the_index_snapshots_is_a_note() -> None:
    decided = plan(server(TEXT, replace(IMAGE, metadata={"d": "2"})))

    assert lacks(decided) == []
    assert [note for note in decided.notes if "images__1" in note and "metadata" in note]


def test_an_embedded_storage_is_a_source_of_files_and_no_server_is_asked() -> None:
    decided = plan(inventory(server=replace(SERVER, embedded=True, url="path:/srv/qdrant")))

    assert not [step for step in decided.steps if isinstance(step, CollectionStep)]
    assert lacks(decided) == []


# -- shrinking -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((100, 10**6), (100, 10**6), []),
        ((100, 10**6), (40, 400_000), []),
        ((100, 10**6), (39, 10**6), [("files", 100, 39)]),
        ((100, 10**6), (100, 399_999), [("bytes", 10**6, 399_999)]),
        ((100, 10**6), (1, 1), [("files", 100, 1), ("bytes", 10**6, 1)]),
        ((4, 60_000), (1, 1), []),
        ((5, 65_536), (1, 26_214), [("files", 5, 1), ("bytes", 65_536, 26_214)]),
    ],
)
def test_less_than_two_fifths_of_what_it_held_is_shrunk_hard_above_a_floor(
    before: tuple[int, int], now: tuple[int, int], expected: list[tuple[str, int, int]]
) -> None:
    decided = plan(inventory(seen(Part.UPLOADS, *now)), backup(stored(Part.UPLOADS, *before)))

    assert decided.shrinks == tuple(Shrink(Part.UPLOADS, *row) for row in expected)
    assert lacks(decided) == []


@pytest.mark.parametrize("part", [Part.CACHE, Part.STORAGE, Part.LOGS])
def test_caches_index_generations_and_logs_may_shrink(part: Part) -> None:
    decided = plan(inventory(seen(part, 1, 1)), backup(stored(part, 100, 10**9)), include_logs=True)

    assert decided.shrinks == ()


def test_a_collection_that_lost_most_of_its_points_is_shrunk() -> None:
    before = backup(qdrant=qdrant(captured("docs__0", "text", 1000)))

    assert plan(server(replace(TEXT, points=399), IMAGE), before).shrinks == (Shrink(Part.QDRANT, "points", 1000, 399),)
    assert plan(server(replace(TEXT, points=400), IMAGE), before).shrinks == ()


def test_shrinking_is_measured_against_the_last_good_backup_and_not_against_a_shrunk_one() -> None:
    good = backup(stored(Part.UPLOADS, 100, 10**6), sequence=1)
    shrunk = backup(stored(Part.UPLOADS, 3, 3000), sequence=2, shrinks=(Shrink(Part.UPLOADS, "files", 100, 3),))
    damaged = backup(stored(Part.UPLOADS, 1, 10), sequence=3, seal=DAMAGED)
    now = inventory(seen(Part.UPLOADS, 3, 3000))

    assert plan(now, damaged, shrunk, good).shrinks
    accepted = replace(shrunk, record=replace(shrunk.record, shrink_accepted=True))
    assert plan(now, damaged, accepted, good).shrinks == ()


def test_an_accepted_shrink_is_written_down_with_its_acceptance() -> None:
    decided = plan(inventory(seen(Part.UPLOADS, 1, 1)), backup(stored(Part.UPLOADS, 9, 10**6)), accept_shrink=True)

    assert decided.shrinks
    assert decided.shrink_accepted


# -- notes ---------------------------------------------------------------------------------------


def test_encrypted_artifacts_without_the_settings_are_worth_a_word() -> None:
    sealed = inventory(encrypted_artifacts=3)

    assert any("AES_KEY" in note for note in plan(sealed).notes)
    assert not any("AES_KEY" in note for note in plan(sealed, include_env=True).notes)


# -- names ---------------------------------------------------------------------------------------


@given(st.text(max_size=300))
@example("")
@example("..")
@example(".")
@example("a/b")
@example("%2e%2e")
@example("with space")
@example("x" * 255)
@example("\ud800")
def test_a_collections_folder_is_one_plain_name_whatever_the_server_calls_it(name: str) -> None:
    folder = folder_name(name)

    assert contained(f"qdrant/{folder}/x") == f"qdrant/{folder}/x"
    assert "/" not in folder
    assert len(folder.encode(errors="surrogateescape")) <= 200
    assert not any(ord(c) < 32 for c in folder)


@given(st.lists(st.text(min_size=1, max_size=6, alphabet="a%2e./\x01é"), min_size=2, max_size=2, unique=True))
@example(["..", "%2e%2e"])
@example(["\x01", "%01"])
@example(["a" * 250, folder_name("a" * 250)])
def test_two_collections_never_share_a_folder(pair: list[str]) -> None:
    assert folder_name(pair[0]) != folder_name(pair[1])


@pytest.mark.parametrize("name", ["docmind_docs__34f9f8ac07251e60ac2ef6dbefe18874", "with space", "ünï", "a.b"])
def test_a_collections_own_name_is_kept_where_it_can_be(name: str) -> None:
    assert folder_name(name) == name
