"""Retention: a golden table to read, and properties that hold for any catalog and any policy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from docmind_backup.core.model import (
    Backup,
    Layout,
    Omission,
    Part,
    Reason,
    Record,
    Scope,
    Seal,
    Shrink,
    Totals,
)
from docmind_backup.core.rotator import RetentionPolicy, Verdict, apply, parse_within
from docmind_backup.errors import UsageError

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
GOLDEN = Path(__file__).parent.parent / "golden" / "verdicts.txt"
COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")

FULL = Scope(
    "/srv/docmind/data",
    "d1",
    frozenset({Part.CACHE, Part.CHAT, Part.STORAGE, Part.UPLOADS, Part.QDRANT}),
    frozenset({"role:text", "role:image"}),
)
SCOPES = {
    "full": FULL,
    "thin": replace(FULL, parts=FULL.parts - {Part.QDRANT}, collections=frozenset[str]()),
    "cache": replace(FULL, parts=frozenset({Part.CACHE}), collections=frozenset[str]()),
    "text": replace(FULL, parts=frozenset({Part.QDRANT}), collections=frozenset({"role:text"})),
    "other": replace(FULL, deployment_id="d2"),
}
COLD = Omission(Part.CACHE, "cache/docmind.duckdb", Reason.BUSY, rebuildable=True)
BROKEN_CHAT = Omission(Part.CHAT, "data/chat.db", Reason.DAMAGED)
SHRUNK = Shrink(Part.UPLOADS, "files", before=412, now=3)
BAD_SEAL = Seal("0" * 64, NOW, "full", intact=False)
UNREAD_SEAL = Seal("0" * 64, NOW, "full", intact=True, unread_at=NOW)


def backup(
    sequence: int,
    when: datetime | str,
    scope: str = "full",
    state: str = "good",
    *,
    name: str = "",
    directory: str = "",
) -> Backup:
    started_at = datetime.fromisoformat(when).replace(tzinfo=UTC) if isinstance(when, str) else when
    name = name or f"b{sequence}"
    record = Record(
        id=name,
        sequence=sequence,
        started_at=started_at,
        finished_at=started_at + timedelta(minutes=1),
        host="h",
        tool_version="0",
        scope=SCOPES[scope],
        layout=Layout.V2,
        project="/srv/docmind",
        included=(),
        totals=Totals(),
        sources=(),
    )
    return in_state(Backup(Path("/root") / (directory or name), record), state)


def in_state(good: Backup, state: str) -> Backup:
    record = good.record
    match state:
        case "good":
            return good
        case "cold":
            return replace(good, record=replace(record, omissions=(COLD,)))
        case "lacking":
            return replace(good, record=replace(record, omissions=(COLD, BROKEN_CHAT)))
        case "shrunk":
            return replace(good, record=replace(record, shrinks=(SHRUNK,)))
        case "accepted":
            return replace(good, record=replace(record, shrinks=(SHRUNK,), shrink_accepted=True))
        case "damaged":
            return replace(good, seal=BAD_SEAL)
        case "unread":
            return replace(good, seal=UNREAD_SEAL)
        case "held":
            return replace(good, held="pre-upgrade")
        case _:
            raise ValueError(state)


def nights(count: int, scope: str = "full", state: str = "good", *, after: int = 0) -> list[Backup]:
    first = datetime(2026, 10, 1, 2, tzinfo=UTC)
    return [backup(n, first + timedelta(days=n), scope, state) for n in range(after + 1, after + count + 1)]


def decide(
    policy: RetentionPolicy, backups: Sequence[Backup], zone: str = "UTC", now: datetime = NOW
) -> tuple[Verdict, ...]:
    return apply(policy, backups, now, zone=ZoneInfo(zone))


def removed(policy: RetentionPolicy, backups: Sequence[Backup], zone: str = "UTC") -> set[Path]:
    return {v.backup.directory for v in decide(policy, backups, zone) if not v.keep}


def names(*sequences: int) -> set[Path]:
    return {Path(f"/root/b{sequence}") for sequence in sequences}


# -- the golden table ----------------------------------------------------------------------------


def test_every_golden_case_gets_the_verdicts_written_beside_it(request: pytest.FixtureRequest) -> None:
    written = GOLDEN.read_text()
    blocks = written.split("\n\n")
    decided = "\n\n".join(_decided(block) if block.startswith("# ") else block for block in blocks)

    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(decided)
    assert decided == GOLDEN.read_text()


def _decided(block: str) -> str:
    title, keep, *lines = block.rstrip("\n").splitlines()
    words = dict(word.split("=") for word in keep.removeprefix("keep ").split())
    zone = words.pop("zone", "UTC")
    within = parse_within(words.pop("within")) if "within" in words else None
    policy = RetentionPolicy(within=within, **{name: int(count) for name, count in words.items()})
    given_lines = [line.partition(" ->")[0] for line in lines]
    backups = [_spelled(line) for line in given_lines]
    by_id = {v.backup.id: v for v in decide(policy, backups, zone)}
    told = [f"{line} -> {_said(by_id[b.id])}" for line, b in zip(given_lines, backups, strict=True)]
    return "\n".join([title, keep, *told]) + "\n" * (len(block) - len(block.rstrip("\n")))


def _spelled(line: str) -> Backup:
    sequence, when, scope, state = line.split()
    return backup(int(sequence), when, scope, state)


def _said(verdict: Verdict) -> str:
    return f"{'stays:' if verdict.keep else 'goes: '} {'; '.join(verdict.reasons)}"


# -- what users were promised --------------------------------------------------------------------


def test_seven_thin_backups_after_a_full_one_leave_the_full_one() -> None:
    backups = [*nights(1), *nights(7, "thin", after=1)]

    assert removed(RetentionPolicy(last=7), backups) == set()


def test_an_eighth_thin_backup_evicts_the_first_thin_one_and_not_the_full_one() -> None:
    backups = [*nights(1), *nights(8, "thin", after=1)]

    assert removed(RetentionPolicy(last=7), backups) == names(2)


def test_on_the_eighth_night_with_a_busy_cache_the_first_goes() -> None:
    assert removed(RetentionPolicy(last=7), nights(8, state="cold")) == names(1)


def test_a_corrupt_chat_db_for_eight_nights_removes_neither_the_last_good_one_nor_anything_newer() -> None:
    backups = [*nights(7), *nights(8, state="lacking", after=7)]

    assert removed(RetentionPolicy(last=7, incomplete=3), backups) == set()


def test_once_good_again_the_newest_three_incomplete_ones_stay() -> None:
    backups = [*nights(1), *nights(8, state="lacking", after=1), *nights(1, after=9)]

    assert removed(RetentionPolicy(last=7, incomplete=3), backups) == names(2, 3, 4, 5, 6)


def test_incomplete_ones_newer_than_the_good_one_do_not_use_up_the_places_of_older_ones() -> None:
    backups = [*nights(3, state="lacking"), *nights(1, after=3), *nights(5, state="lacking", after=4)]

    assert removed(RetentionPolicy(last=7, incomplete=3), backups) == set()


def test_a_collection_by_role_is_covered_by_a_backup_that_asked_for_both() -> None:
    backups = [*nights(2, "text"), *nights(1, after=2)]

    assert removed(RetentionPolicy(last=1), backups) == names(1)


def test_nights_that_asked_for_one_collection_do_not_push_out_one_that_asked_for_both() -> None:
    one = replace(FULL, collections=frozenset({"name:docs"}))
    thin = [replace(b, record=replace(b.record, scope=one)) for b in nights(3, after=2)]

    assert removed(RetentionPolicy(last=2), [*nights(2), *thin]) == names(3)


def test_a_hold_without_a_word_holds_too() -> None:
    first, second = nights(2)

    verdicts = decide(RetentionPolicy(last=1), [replace(first, held=""), second])

    assert [(v.keep, v.reasons[0]) for v in verdicts] == [(True, "last 1 of 1"), (True, "held")]


# -- clocks --------------------------------------------------------------------------------------


def test_after_the_clock_went_back_the_sequence_decides_what_is_newer() -> None:
    backups = [backup(1, "2026-11-21T02:00"), backup(2, "2026-11-20T02:00"), backup(3, "2016-01-01T00:00")]

    assert removed(RetentionPolicy(last=1), backups) == names(1, 2)
    assert removed(RetentionPolicy(yearly=1), backups) == names(1, 2)
    assert removed(RetentionPolicy(within=timedelta(days=1)), backups) == set()


def test_damage_in_what_was_made_after_the_clock_went_back_removes_nothing_older() -> None:
    """A time is counted back from a date that only damage could move forward, were it the newest one's."""
    backups = [backup(1, "2026-11-20T02:00"), backup(2, "2026-11-22T02:00"), backup(3, "2026-11-20T03:00")]
    policy = RetentionPolicy(within=timedelta(hours=5))
    struck = [*backups[:2], in_state(backups[2], "damaged")]

    assert removed(policy, backups) == names(1)
    assert removed(policy, struck) <= removed(policy, backups) | names(3)


def test_after_the_clock_was_set_to_1970_and_stayed_there_the_newest_are_within() -> None:
    backups = [*nights(3), *(backup(n, f"1970-01-0{n}T02:00") for n in (4, 5, 6))]

    assert removed(RetentionPolicy(within=timedelta(days=7)), backups) == set()


def test_a_backup_started_now_is_not_in_the_future_and_a_microsecond_later_is() -> None:
    older, newer = backup(1, NOW - timedelta(days=1)), backup(2, NOW)
    policy = RetentionPolicy(last=1)

    assert removed(policy, [older, newer]) == names(1)
    assert removed(policy, [older, backup(2, NOW + timedelta(microseconds=1))]) == set()


def test_the_hour_that_comes_twice_is_two_hours_and_the_hour_that_is_left_out_is_none() -> None:
    autumn = [backup(n, f"2026-10-25T0{n - 1}:30") for n in (1, 2, 3)]
    spring = [backup(n, f"2026-03-29T0{n - 1}:30") for n in (1, 2, 3)]

    assert removed(RetentionPolicy(hourly=2), autumn, "Europe/Berlin") == names(1)
    assert removed(RetentionPolicy(hourly=3), autumn, "Europe/Berlin") == set()
    assert removed(RetentionPolicy(hourly=3), spring, "Europe/Berlin") == set()


def test_the_zone_decides_which_day_it_was() -> None:
    backups = [backup(1, "2026-11-20T22:30"), backup(2, "2026-11-20T23:30")]

    assert removed(RetentionPolicy(daily=2), backups, "UTC") == names(1)
    assert removed(RetentionPolicy(daily=2), backups, "Europe/Berlin") == set()


def test_the_offset_a_record_was_written_with_does_not_matter() -> None:
    tokyo = timezone(timedelta(hours=9))
    backups = [backup(1, "2026-11-20T02:00"), backup(2, datetime(2026, 11, 21, 6, tzinfo=tokyo))]

    assert removed(RetentionPolicy(daily=2), backups) == names(1)


def test_of_two_in_one_second_the_higher_sequence_stays_and_of_one_sequence_the_higher_id() -> None:
    when = "2026-11-20T02:00"

    assert removed(RetentionPolicy(daily=1), [backup(1, when), backup(2, when)]) == names(1)
    twins = [backup(1, when, name="b_2", directory="moved"), backup(1, when, name="b_1", directory="of-old")]
    assert removed(RetentionPolicy(last=1), twins) == {Path("/root/of-old")}


def test_a_copied_backup_directory_is_told_apart_from_its_original() -> None:
    when = "2026-11-20T02:00"
    backups = [backup(1, when, name="b", directory="b"), backup(1, when, name="b", directory="b-copy")]

    verdicts = decide(RetentionPolicy(last=1), backups)

    assert [(v.backup.directory.name, v.keep) for v in verdicts] == [("b-copy", True), ("b", False)]


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", [None, timedelta()])
def test_a_policy_with_nothing_to_keep_by_is_refused_even_for_no_backups(within: timedelta | None) -> None:
    policy = RetentionPolicy(within=within, incomplete=9)

    assert policy.empty()
    with pytest.raises(UsageError, match="nothing to keep by"):
        decide(policy, [])


@pytest.mark.parametrize("name", [*COUNTS, "incomplete"])
def test_a_negative_count_is_refused_by_name_whatever_else_there_is(name: str) -> None:
    policy = replace(RetentionPolicy(last=7, daily=7), **{name: -1})  # type: ignore[arg-type]

    with pytest.raises(UsageError, match=f"keep-{name} is -1"):
        decide(policy, nights(2))


def test_a_negative_length_of_time_is_refused() -> None:
    with pytest.raises(UsageError, match="keep-within"):
        decide(RetentionPolicy(last=1, within=timedelta(days=-1)), nights(2))


@pytest.mark.parametrize("name", COUNTS)
def test_each_rule_alone_is_something_to_keep_by(name: str) -> None:
    policy = replace(RetentionPolicy(), **{name: 1})

    assert not policy.empty()
    assert [v.keep for v in decide(policy, nights(1))] == [True]


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("7d", 7 * 24),
        ("12h", 12),
        ("2w", 14 * 24),
        ("1m", 30 * 24),
        ("1y", 365 * 24),
        ("2y5m7d3h", (730 + 150 + 7) * 24 + 3),
        ("3h2y", 3 + 730 * 24),
        ("0d", 0),
        ("999999y", 999999 * 365 * 24),
    ],
)
def test_a_length_of_time_in_restics_words(text: str, hours: int) -> None:
    assert parse_within(text) == timedelta(hours=hours)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "d",
        "7D",
        "7 d",
        " 7d",
        "7d\n",
        "-7d",
        "1.5d",
        "7days",
        "7s",
        "1d1d",
        "1d2h3d",
        "\u0667d",
        "9" * 9 + "d",
    ],
)
def test_anything_else_is_refused_naming_the_text(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_within(text)

    assert repr(text) in str(refused.value)
    assert "2y5m7d3h" in refused.value.hint


def test_the_longest_length_of_time_that_can_be_written_keeps_everything() -> None:
    policy = RetentionPolicy(within=parse_within("999999y999999m999999w999999d999999h"))

    assert removed(policy, nights(9)) == set()


# -- properties ----------------------------------------------------------------------------------

STATES = st.sampled_from(
    ["good"] * 5 + ["cold", "lacking", "lacking", "shrunk", "accepted", "damaged", "unread", "held"]
)
KINDS = st.sampled_from(["full", "full", "full", "thin", "thin", "cache", "text", "other"])
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"])
MOMENTS = st.one_of(
    st.integers(0, 60).map(lambda n: NOW - timedelta(days=n)),
    st.integers(0, 40).map(lambda n: datetime(2026, 10, 24, 22, tzinfo=UTC) + timedelta(minutes=10 * n)),
    st.integers(0, 60).map(lambda n: NOW - timedelta(days=25 * n)),
    st.integers(1, 4).map(lambda n: NOW + timedelta(days=1000 * n)),
)


@st.composite
def catalogs(draw: st.DrawFn) -> list[Backup]:
    """Any order, clocks that jump, now and then two with one sequence number."""
    size = draw(st.integers(0, 11))
    sequences = draw(st.lists(st.integers(1, 20), min_size=size, max_size=size))
    ids = draw(st.permutations(range(size)))
    return [
        backup(sequence, draw(MOMENTS), draw(KINDS), draw(STATES), name=f"b{name:02}")
        for sequence, name in zip(sequences, ids, strict=True)
    ]


def policies() -> st.SearchStrategy[RetentionPolicy]:
    count = st.sampled_from([0, 0, 0, 1, 2, 3, 7])
    within = st.sampled_from([None, None, timedelta(hours=5), timedelta(days=7), timedelta(days=400)])
    return st.builds(RetentionPolicy, *[count] * len(COUNTS), within=within, incomplete=st.integers(0, 4)).filter(
        lambda policy: not policy.empty()
    )


def age(b: Backup) -> tuple[int, str]:
    return b.record.sequence, b.id


def set_aside(b: Backup) -> bool:
    return b.held is not None or b.record.started_at > NOW


def stands(b: Backup) -> bool:
    return b.counts and not set_aside(b)


def rivals_of(b: Backup, backups: Sequence[Backup]) -> list[Backup]:
    rivals = [c for c in backups if stands(c) and c.record.scope.covers(b.record.scope)]
    return sorted(rivals, key=age, reverse=True)


def kept_as_written(policy: RetentionPolicy, b: Backup, backups: Sequence[Backup], zone: str) -> bool:
    """The rules as sentences, one backup at a time, however slow: what `apply` has to agree with."""
    if set_aside(b):
        return True
    rivals = rivals_of(b, backups)
    if not stands(b):
        older = [
            c
            for c in backups
            if c.record.scope == b.record.scope and not c.counts and not set_aside(c)
            if rivals and age(c) < age(rivals[0])
        ]
        return b not in older or sum(age(c) > age(b) for c in older) < policy.incomplete
    same = [c for c in rivals if c.record.scope == b.record.scope and c.record.complete]
    return (
        b in same[:1]
        or sum(age(c) > age(b) for c in rivals) < policy.last
        or any(_newest_of_a_bucket(b, rivals, name, getattr(policy, name), zone) for name in COUNTS[1:])
        or _is_within(policy.within, b, rivals)
    )


def _is_within(within: timedelta | None, b: Backup, rivals: Sequence[Backup]) -> bool:
    newer = [c for c in rivals if age(c) >= age(b)]
    return bool(within) and all(c.record.started_at - b.record.started_at <= (within or timedelta()) for c in newer)


def _newest_of_a_bucket(b: Backup, rivals: list[Backup], name: str, count: int, zone: str) -> bool:
    newest: dict[object, Backup] = {}
    for c in rivals:
        newest.setdefault(_bucket(name, c.record.started_at, zone), c)
    return b in list(newest.values())[:count]


def _bucket(name: str, when: datetime, zone: str) -> object:
    local = when.astimezone(ZoneInfo(zone))
    if name == "weekly":
        return local.isocalendar()[:2]
    if name == "hourly":
        return local.timetuple()[:4], local.utcoffset()
    return local.timetuple()[: {"yearly": 1, "monthly": 2, "daily": 3}[name]]


@settings(max_examples=300)
@given(catalogs(), policies(), ZONES)
def test_what_stays_is_what_the_rules_say_read_one_backup_at_a_time(
    backups: list[Backup], policy: RetentionPolicy, zone: str
) -> None:
    said = {b.id for b in backups if not kept_as_written(policy, b, backups, zone)}

    assert {path.name for path in removed(policy, backups, zone)} == said


@given(catalogs(), policies(), policies(), ZONES)
def test_adding_or_raising_a_rule_never_removes_more(
    backups: list[Backup], policy: RetentionPolicy, more: RetentionPolicy, zone: str
) -> None:
    raised = RetentionPolicy(
        *(max(getattr(policy, name), getattr(more, name)) for name in COUNTS),
        within=max(policy.within or timedelta(), more.within or timedelta()),
        incomplete=max(policy.incomplete, more.incomplete),
    )

    assert removed(raised, backups, zone) <= removed(policy, backups, zone)


@given(catalogs(), policies(), ZONES)
def test_pruning_what_was_pruned_removes_nothing_more(
    backups: list[Backup], policy: RetentionPolicy, zone: str
) -> None:
    survivors = [v.backup for v in decide(policy, backups, zone) if v.keep]

    assert removed(policy, survivors, zone) == set()


@given(catalogs(), policies(), ZONES, st.randoms(use_true_random=False))
def test_a_prune_that_died_half_way_is_finished_by_the_next_one(
    backups: list[Backup], policy: RetentionPolicy, zone: str, random: object
) -> None:
    goes = removed(policy, backups, zone)
    left = [b for b in backups if b.directory not in goes or random.random() < 0.5]  # type: ignore[attr-defined]

    assert removed(policy, left, zone) == goes & {b.directory for b in left}


@given(st.data(), catalogs(), policies(), ZONES)
def test_the_order_they_come_in_does_not_matter(
    data: st.DataObject, backups: list[Backup], policy: RetentionPolicy, zone: str
) -> None:
    shuffled = data.draw(st.permutations(backups))

    assert decide(policy, shuffled, zone) == decide(policy, backups, zone)


@given(catalogs(), policies(), ZONES)
def test_every_backup_gets_one_verdict_with_a_reason_newest_first(
    backups: list[Backup], policy: RetentionPolicy, zone: str
) -> None:
    verdicts = decide(policy, backups, zone)

    assert [v.backup for v in verdicts] == sorted(backups, key=age, reverse=True)
    assert all(v.reasons and all(v.reasons) for v in verdicts)


@given(catalogs(), policies(), ZONES)
def test_the_newest_complete_one_of_each_exact_scope_is_never_removed(
    backups: list[Backup], policy: RetentionPolicy, zone: str
) -> None:
    goes = removed(policy, backups, zone)

    for scope in SCOPES.values():
        complete = [b for b in backups if b.record.scope == scope and stands(b) and b.record.complete]
        assert not complete or max(complete, key=age).directory not in goes


@given(catalogs(), policies(), ZONES)
def test_the_newest_one_that_counts_is_never_removed(backups: list[Backup], policy: RetentionPolicy, zone: str) -> None:
    goes = removed(policy, backups, zone)

    for b in backups:
        assert not (rivals := rivals_of(b, backups)) or rivals[0].directory not in goes


@given(catalogs(), policies(), ZONES)
def test_held_and_future_dated_ones_stay_and_decide_nothing(
    backups: list[Backup], policy: RetentionPolicy, zone: str
) -> None:
    aside = [b for b in backups if set_aside(b)]
    others = [b for b in backups if not set_aside(b)]

    assert removed(policy, backups, zone).isdisjoint(b.directory for b in aside)
    assert removed(policy, others, zone) == removed(policy, backups, zone)


@given(catalogs(), policies(), ZONES)
def test_what_counts_goes_or_stays_as_if_nothing_else_were_there(
    backups: list[Backup], policy: RetentionPolicy, zone: str
) -> None:
    standing = [b for b in backups if stands(b)]

    goes = removed(policy, backups, zone) & {b.directory for b in standing}

    assert removed(policy, standing, zone) == goes


@given(catalogs(), policies(), ZONES)
def test_a_backup_is_never_removed_on_account_of_one_whose_scope_does_not_cover_its_own(
    backups: list[Backup], policy: RetentionPolicy, zone: str
) -> None:
    goes = removed(policy, backups, zone)

    for name, scope in SCOPES.items():
        concerned = [b for b in backups if b.record.scope.covers(scope)]
        alone = removed(policy, concerned, zone)
        mine = {b.directory for b in concerned if b.record.scope == SCOPES[name]}
        assert alone & mine == goes & mine


@given(catalogs(), policies(), ZONES)
def test_without_anything_good_that_covers_it_nothing_is_removed(
    backups: list[Backup], policy: RetentionPolicy, zone: str
) -> None:
    goes = removed(policy, backups, zone)

    assert all(rivals_of(b, backups) for b in backups if b.directory in goes)


@given(st.data(), catalogs(), policies())
def test_finding_a_backup_damaged_or_unreadable_never_removes_another_sound_one(
    data: st.DataObject, backups: list[Backup], policy: RetentionPolicy
) -> None:
    assume(any(stands(b) for b in backups))
    struck = data.draw(st.sampled_from([b for b in backups if stands(b)]))
    state = data.draw(st.sampled_from(["damaged", "unread"]))
    after = [in_state(b, state) if b is struck else b for b in backups]
    sound = {b.directory for b in backups if stands(b) and b is not struck}

    assert removed(policy, after) & sound <= removed(policy, backups)


# -- cost ----------------------------------------------------------------------------------------


@cache
def thousand() -> tuple[Backup, ...]:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    cycle = ["full", "thin", "full", "cache", "full", "text", "other"]
    states = ["good"] * 8 + ["cold", "lacking", "shrunk"]
    return tuple(backup(n, start + timedelta(hours=20 * n), cycle[n % 7], states[n % 11]) for n in range(1000))


def calls(act: Callable[[], object]) -> int:
    """How many functions it calls: what it costs, on any machine."""
    number = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal number
        number += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return number


def test_four_times_as_many_backups_under_every_rule_cost_four_times_as_much() -> None:
    policy = RetentionPolicy(7, 24, 7, 4, 12, 10, within=timedelta(days=7))
    few, many = thousand()[:250], thousand()

    assert calls(lambda: decide(policy, many, "UTC")) < 5 * calls(lambda: decide(policy, few, "UTC"))
