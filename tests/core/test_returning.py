"""Which way a collection takes, what is compared, and where aliases lead: tables of values."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from docmind_backup.core.model import CollectionRecord, CollectionState
from docmind_backup.core.restore import TargetQdrant
from docmind_backup.core.returning import (
    Course,
    Expected,
    Saved,
    Stage,
    Way,
    aliases_back,
    aliases_moved,
    course,
    decide,
    differences,
    refusals,
)

STATE = CollectionState(
    "docs",
    "text",
    points=5,
    vectors={"v": {"size": 4}},
    payload_schema={"doc_id": {"data_type": "keyword", "points": 5}},
    metadata={"owner": "text"},
    aliases=("live",),
    config={"params": {}},
)
TAKEN = CollectionRecord(
    "docs", "text", "2026-11-21T10:15:00+00:00", 5, 5, "qdrant/docs/a.snapshot", 9, "0" * 64, state=STATE
)
ABSENT = CollectionState("docs", "", exists=False)


def target(*names: str, **aliases: str) -> TargetQdrant:
    return TargetQdrant("http://q:6333", version="1.18.3", names=names, aliases=aliases)


def decided(where: TargetQdrant, old: CollectionState = ABSENT, wanted: str = "docs") -> Course:
    return decide(TAKEN, wanted, where, old, points=(5, 5), token="0123456789ab", backup_id="B")


SCRATCH = "docmind-backup-scratch-B-0123456789ab"


@pytest.mark.parametrize(
    ("where", "old", "way", "place", "trial", "aliases"),
    [
        (target(), ABSENT, Way.NEW, "docs", SCRATCH, {"live": None}),
        (target("other", live="other"), ABSENT, Way.NEW, "docs", SCRATCH, {"live": "other"}),
        (
            target("before", docs="before"),
            ABSENT,
            Way.ALIAS,
            "docs-restored-0123456789ab",
            "docs-restored-0123456789ab",
            {"docs": "before", "live": None},
        ),
        (
            target("docs", mine="docs"),
            replace(STATE, aliases=("mine",)),
            Way.EXACT,
            "docs",
            SCRATCH,
            {"live": None, "mine": "docs"},
        ),
    ],
)
def test_the_way_is_decided_by_what_has_the_name(
    where: TargetQdrant, old: CollectionState, way: Way, place: str, trial: str, aliases: dict[str, str | None]
) -> None:
    found = decided(where, old)

    assert (found.way, found.target, found.trial, dict(found.aliases)) == (way, place, trial, aliases)
    assert found.old == (old if way is Way.EXACT else None)


@pytest.mark.parametrize("char", [*'<>:"/\\|?*\0\x1f', "\udcff"], ids=lambda char: f"{ord(char):x}")
def test_a_name_that_is_made_is_one_that_the_server_takes(char: str) -> None:
    """An alias may have what no collection may, and a foreign backup's id is the name of its folder."""
    wanted = f"my{char}docs"
    alias = decided(target("x", **{wanted: "x"}), wanted=wanted)
    scratch = decide(TAKEN, "docs", target(), ABSENT, points=(5, 5), token="0123456789ab", backup_id=wanted)

    assert ascii(alias.target) == ascii(alias.trial) == "'my_docs-restored-0123456789ab'"
    assert alias.aliases.get(wanted) == "x"
    assert ascii(scratch.trial) == "'docmind-backup-scratch-my_docs-0123456789ab'"


def test_names_made_of_long_ones_fit() -> None:
    long = "n" * 255

    assert len(decided(target("x", **{long: "x"}), wanted=long).target) <= 255
    scratch = decide(TAKEN, "docs", target(), ABSENT, points=(5, 5), token="0123456789ab", backup_id=long).trial
    assert len(scratch) <= 255
    assert scratch.endswith("-0123456789ab")


def test_a_course_outlives_json() -> None:
    one = replace(
        decided(target("docs", mine="docs"), replace(STATE, aliases=("mine",))),
        saved=Saved("old/a.snapshot", 9, "0" * 64),
        stage=Stage.GOING_BACK,
        clearing=0,
    )

    assert course(json.loads(json.dumps(one.as_json()))) == one


def test_what_no_upload_can_bring_is_refused() -> None:
    custom = replace(TAKEN, state=replace(STATE, sharding="custom"))

    assert refusals(TAKEN, target(), made_with="1.18.3") == ()
    assert refusals(TAKEN, target(), made_with=None) == ()
    assert "needs 1.15.0 or later" in refusals(TAKEN, target(), made_with="1.15.0")[0]
    assert "a cluster of 2 nodes" in refusals(TAKEN, replace(target(), peers=2), made_with="1.18.3")[0]
    assert "a collection on the target" in refusals(TAKEN, target("live"), made_with="1.18.3")[0]
    assert "custom sharding" in refusals(custom, target(), made_with="1.18.3")[0]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (STATE, ()),
        (replace(STATE, payload_schema={"doc_id": {"data_type": "keyword", "points": 0}}), ()),
        (replace(STATE, aliases=(), role=""), ()),
        (replace(STATE, exists=False), ("it is not there",)),
        (replace(STATE, points=4), ("4 points instead of 5",)),
        (replace(STATE, metadata={}), ("other metadata",)),
        (replace(STATE, payload_schema={}), ("other payload indexes",)),
        (replace(STATE, vectors={}, shards=2), ("other vectors", "other number of shards")),
        (replace(STATE, sparse_vectors={"s": {}}), ("other sparse vectors",)),
    ],
)
def test_what_came_is_compared_with_what_was_recorded(found: CollectionState, words: tuple[str, ...]) -> None:
    assert differences(Expected((5, 5), STATE), found) == words


def test_a_range_is_held_to_and_what_was_not_recorded_is_not_compared() -> None:
    assert differences(Expected((3, 9), STATE), STATE) == ()
    assert differences(Expected((6, 9), STATE), STATE) == ("5 points instead of 6 to 9",)
    assert differences(Expected((5, 5)), STATE) == ()


ONE = replace(decided(target("other", live="other")), aliases={"live": "other", "fresh": None})


@pytest.mark.parametrize(
    ("now", "names", "back"),
    [
        ({"live": "docs", "fresh": "docs"}, ("docs", "other"), {"live": "other", "fresh": None}),
        ({"live": "docs", "fresh": "theirs"}, ("docs", "other"), {"live": "other"}),
        ({"live": "docs"}, ("docs",), {"fresh": None}),
        ({}, ("other",), {"live": "other", "fresh": None}),
    ],
)
def test_an_alias_goes_back_unless_somebody_moved_it(
    now: dict[str, str], names: tuple[str, ...], back: dict[str, str | None]
) -> None:
    assert aliases_back(ONE, now, names) == back


@pytest.mark.parametrize(
    ("now", "removed", "moved"),
    [
        ({"live": "other"}, False, ()),
        ({"live": "docs", "fresh": "docs"}, False, ()),
        ({"live": "third"}, False, ("live",)),
        ({"fresh": "third", "live": "other"}, True, ("fresh",)),
        ({}, False, ("live",)),
        ({}, True, ()),
    ],
)
def test_an_alias_that_moved_since_is_noticed(now: dict[str, str], removed: bool, moved: tuple[str, ...]) -> None:
    assert aliases_moved(replace(ONE, removed=removed), now) == moved
