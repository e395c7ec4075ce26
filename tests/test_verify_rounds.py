"""Verifying a part each time: what was longest unverified comes first, and no byte counts as read that was not."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import clone, entries, flip, made_by_the_command_line, overwrite, record, write_record
from tests.conftest import Cli, Result

from docmind_backup import verify as verifying
from docmind_backup.catalog import Catalog
from docmind_backup.copying import Copier
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Event, FileEntry, RunStarted, Seal
from docmind_backup.core.verifier import Observed, Unread, Verification, parse_budget, parse_percent, urgency
from docmind_backup.crew import Crew
from docmind_backup.errors import UsageError
from docmind_backup.looking import Look
from docmind_backup.rounds import Extent, Verifier
from docmind_backup.verify import Known

DAY = timedelta(days=1)
START = datetime(2026, 2, 1, tzinfo=UTC)
TENTH = Extent(percent=10)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by_the_command_line(tmp_path_factory.mktemp("made"), "--no-share")


@pytest.fixture
def backup(pristine: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "root" / pristine.name
    shutil.copytree(pristine, copied, symlinks=True)
    return copied


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every stored file whose content is read, in this order: one thread does it."""
    seen: list[Path] = []
    read = verifying._read

    def spy(path: Path, copier: Copier, known: Known) -> Observed:
        if path.name not in fmt.OWN_FILES:
            seen.append(path)
        return read(path, copier, known)

    monkeypatch.setattr(verifying, "_read", spy)
    monkeypatch.setattr(verifying, "Crew", lambda: Crew(size=1))
    return seen


@contextmanager
def at(backup: Path, now: datetime, *, ticks: Callable[[], float] = lambda: 0.0) -> Iterator[Look]:
    """The catalog that `backup` lies in, on that day."""
    yield Look(Catalog(backup.parent), clock=lambda: now, ticks=ticks)


def run(backup: Path, extent: Extent, now: datetime = START, **more: Any) -> Verification:
    """Verify one backup so far."""
    with at(backup, now, **more) as job:
        found = Verifier(job, [backup], extent).verify(backup)
    assert isinstance(found, Verification)
    return found


def run_all(backup: Path, extent: Extent, now: datetime = START, **more: Any) -> dict[Path, Verification | Unread]:
    """Verify all of the catalog that `backup` lies in; in the order in which it is done."""
    with at(backup, now, **more) as job:
        newest_first = [one.directory for one in job.catalog.backups()]
        verifier = Verifier(job, newest_first, extent)
        return {directory: verifier.verify(directory) for directory in verifier.order}


def seal(backup: Path) -> Seal | None:
    return Catalog(backup.parent).read(backup).seal


def files(backup: Path) -> list[Path]:
    """The stored files in the order of the inventory."""
    return [backup / path for path, entry in entries(backup).items() if isinstance(entry, FileEntry)]


def counting() -> Callable[[], float]:
    """Seconds: one more each time somebody looks."""
    seconds = itertools.count()
    return lambda: float(next(seconds))


def in_catalog(cli: Cli, backup: Path, command: str, *args: object) -> Result:
    return cli(command, *args, "-C", backup.parent.parent, "--dest", backup.parent)


# -- a sample ------------------------------------------------------------------------------------


def test_ten_samples_of_a_tenth_read_every_file_once_and_are_a_whole_verification(
    backup: Path, reads: list[Path]
) -> None:
    total = record(backup).totals.bytes
    largest = max(path.stat().st_size for path in files(backup))

    for day in range(10):
        found = run(backup, TENTH, START + day * DAY)
        assert (found.exit_code, found.level, found.remembered) == (0, "part", True)
        assert found.covered <= total // 10 + largest
        if not found.left_files:
            break

    assert reads == files(backup)
    done = seal(backup)
    assert done
    assert (done.level, done.intact, done.round) == ("full", True, None)
    assert done.verified_at == START, "as old as its oldest byte"


def test_each_sample_reads_its_share_and_no_file_more(backup: Path, reads: list[Path]) -> None:
    share = record(backup).totals.bytes * 20 / 100

    found = run(backup, Extent(percent=20))

    read = sum(path.stat().st_size for path in reads)
    assert read == found.covered == found.read
    assert read - reads[-1].stat().st_size < share <= read
    assert found.left == record(backup).totals.bytes - read


def test_a_sample_sees_the_names_and_sizes_of_all_files(backup: Path, reads: list[Path]) -> None:
    last = files(backup)[-1]
    last.unlink()

    found = run(backup, TENTH)

    assert last not in reads
    assert (found.exit_code, [f.path for f in found.findings]) == (4, [str(last.relative_to(backup))])
    remembered = seal(backup)
    assert remembered
    assert not remembered.intact


def test_rot_is_found_by_the_sample_that_comes_to_it(backup: Path) -> None:
    rotten = next(path for path in reversed(files(backup)) if path.stat().st_size)
    flip(rotten, 0)

    codes: list[int] = []
    while not codes or codes[-1] == 0:
        codes.append(run(backup, TENTH, START + len(codes) * DAY).exit_code)

    assert codes[-1] == 4
    assert 2 <= len(codes) <= 10
    remembered = seal(backup)
    assert remembered
    assert (remembered.intact, remembered.round, remembered.verified_at) == (
        False,
        None,
        START + (len(codes) - 1) * DAY,
    )


def test_a_collection_snapshot_is_read_to_its_last_block_when_its_turn_comes(
    backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(verifying.snapshot_tar, "check", lambda path: checked.append(path) or iter(()))
    snapshots = sorted(backup.glob("qdrant/*/*.snapshot"))

    for day in range(10):
        run(backup, TENTH, START + day * DAY)

    assert sorted(set(checked)) == snapshots
    assert len(checked) < 10 * len(snapshots)


def touch(backup: Path) -> None:
    path = files(backup)[0]
    os.utime(path, ns=(0, 0))


def replace_by_a_copy(backup: Path) -> None:
    path = files(backup)[0]
    overwrite(path, path.read_bytes())


def change_the_record(backup: Path) -> None:
    write_record(backup, replace(record(backup), notes=("another",)))


@pytest.mark.parametrize("change", [touch, replace_by_a_copy, change_the_record])
def test_what_was_read_counts_only_as_long_as_nobody_touches_it(
    backup: Path, reads: list[Path], change: Callable[[Path], None]
) -> None:
    run(backup, TENTH)
    first = list(reads)
    change(backup)
    reads.clear()

    run(backup, TENTH, START + DAY)

    assert reads == first
    again = seal(backup)
    assert again
    assert again.round
    assert again.round.started_at == START + DAY


def test_what_is_touched_while_a_part_is_read_costs_the_round(backup: Path) -> None:
    run(backup, TENTH)

    def meddle(event: Event) -> None:
        if isinstance(event, RunStarted):
            touch(backup)

    with at(backup, START + DAY) as job:
        found = Verifier(job, [backup], Extent(percent=100)).verify(backup, meddle)

    assert isinstance(found, Verification)
    assert not found.left_files
    remembered = seal(backup)
    assert remembered
    assert (remembered.verified_at, remembered.round) == (None, None)


def test_a_link_more_to_a_stored_file_touches_nothing(backup: Path, reads: list[Path], tmp_path: Path) -> None:
    """As the next create makes it: the ctime moves."""
    run(backup, TENTH)
    first = list(reads)
    (tmp_path / "another").hardlink_to(first[0])
    reads.clear()

    run(backup, TENTH, START + DAY)

    assert reads
    assert not set(reads) & set(first)


def test_the_last_whole_verification_stays_until_the_next_is_whole(backup: Path) -> None:
    run(backup, Extent())
    run(backup, TENTH, START + DAY)

    half = seal(backup)
    assert half
    assert (half.verified_at, half.level, half.intact) == (START, "full", True)
    assert half.round
    assert half.round.started_at == START + DAY

    run(backup, Extent(percent=100), START + 2 * DAY)
    whole = seal(backup)
    assert whole
    assert (whole.verified_at, whole.round) == (START + DAY, None)


def test_damage_is_not_forgotten_over_a_part_that_is_intact(backup: Path) -> None:
    rotten = next(path for path in reversed(files(backup)) if path.stat().st_size)
    flip(rotten, 0)
    assert run(backup, Extent()).exit_code == 4
    flip(rotten, 0)

    part = run(backup, TENTH, START + DAY)
    assert (part.exit_code, part.findings, part.damaged_at) == (4, (), START)
    remembered = seal(backup)
    assert remembered
    assert not remembered.intact

    assert run(backup, Extent(percent=100), START + 2 * DAY).exit_code == 0
    remembered = seal(backup)
    assert remembered
    assert (remembered.intact, remembered.verified_at) == (True, START + DAY)


def test_the_bar_counts_only_what_will_be_read(backup: Path) -> None:
    totals: list[int] = []

    def tell(event: Event) -> None:
        if isinstance(event, RunStarted):
            totals.append(event.copy_bytes)

    total = record(backup).totals.bytes
    with at(backup, START) as job:
        Verifier(job, [backup], Extent(percent=25)).verify(backup, tell)
        Verifier(job, [backup], Extent(percent=100)).verify(backup, tell)
        Verifier(job, [backup], Extent()).verify(backup, tell)

    assert totals[0] == -(-total // 4)
    assert 0 < totals[1] <= total - totals[0]
    assert totals[2] == total


def test_a_file_that_cannot_be_read_stops_its_round_there(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = files(backup)[len(files(backup)) // 2]
    read = verifying._read

    def fail(path: Path, copier: Copier, known: Known) -> Observed:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error")
        return read(path, copier, known)

    with monkeypatch.context() as patch:
        patch.setattr(verifying, "_read", fail)
        codes = [run(backup, Extent(percent=100), START + day * DAY).exit_code for day in range(2)]
        remembered = seal(backup)

    assert codes == [5, 5]
    assert remembered
    assert remembered.round
    assert (remembered.verified_at, remembered.round.files) == (None, files(backup).index(bad))
    assert run(backup, Extent(percent=100), START + 2 * DAY).exit_code == 0
    done = seal(backup)
    assert done
    assert done.verified_at == START


def test_a_broken_record_is_damage_in_a_part_too(cli: Cli, backup: Path) -> None:
    broken = clone(backup, 2)
    overwrite(broken / "backup.json", b"{")

    result = in_catalog(cli, backup, "verify", "--all", "--sample", "10%", "--json")

    assert result.code == 4
    verdicts = {Path(one["directory"]): one["verdict"] for one in result.json()}
    assert verdicts == {backup: "intact", broken: "damaged"}


# -- all of them ---------------------------------------------------------------------------------


def test_the_longest_unverified_comes_first_and_what_never_was_before_it(backup: Path) -> None:
    second, third, fourth = (clone(backup, number) for number in (2, 3, 4))
    run(second, Extent(), START + DAY)
    run(third, Extent(), START)

    order = list(run_all(backup, Extent(percent=100), START + 5 * DAY))

    assert order == [fourth, backup, third, second], "fourth is newer than the first one"


def test_what_is_half_done_is_finished_before_another_is_begun(backup: Path) -> None:
    newer = clone(backup, 2)
    run(backup, TENTH)

    assert list(run_all(backup, TENTH)) == [backup, newer]
    assert urgency(None) > urgency(Seal("", None, "part", True, round=seal(backup).round))  # type: ignore[union-attr]


def test_a_sample_of_all_is_a_share_of_all_and_the_rest_is_looked_at_by_name_and_size(
    backup: Path, reads: list[Path]
) -> None:
    second, third = clone(backup, 2), clone(backup, 3)
    missing = files(backup)[-1]
    missing.unlink()
    total = record(backup).totals.bytes

    found = run_all(backup, Extent(percent=50))

    read = sum(path.stat().st_size for path in reads)
    assert 1.5 * total <= read < 1.5 * total + max(path.stat().st_size for path in files(third))
    assert [(one.level, one.exit_code) for one in found.values() if isinstance(one, Verification)] == [
        ("part", 0),
        ("part", 0),
        ("quick", 4),
    ]
    assert not any(path.is_relative_to(backup) for path in reads)
    assert [seal(one) and seal(one).level for one in (third, second)] == ["full", "part"]  # type: ignore[union-attr]


def test_ten_samples_of_all_prove_the_whole_catalog(backup: Path, reads: list[Path]) -> None:
    others = [clone(backup, 2), clone(backup, 3)]

    for day in range(10):
        run_all(backup, TENTH, START + day * DAY)

    assert {one: seal(one) and seal(one).level for one in (backup, *others)} == dict.fromkeys(  # type: ignore[union-attr]
        (backup, *others), "full"
    )
    assert set(reads) == {path for one in (backup, *others) for path in files(one)}


# -- shared files --------------------------------------------------------------------------------


def shared_clone(backup: Path, number: int) -> Path:
    """A backup that shares every stored file with `backup`."""
    other = clone(backup, number)
    for path in files(backup):
        twin = other / path.relative_to(backup)
        twin.unlink()
        twin.hardlink_to(path)
    return other


def test_a_shared_file_is_read_once_in_a_run_and_covers_each_backup(backup: Path, reads: list[Path]) -> None:
    other = shared_clone(backup, 2)
    total = record(backup).totals.bytes

    found = run_all(backup, Extent())

    assert sorted(path.stat().st_ino for path in reads) == sorted(path.stat().st_ino for path in files(backup))
    assert [(one.covered, one.read, one.level) for one in found.values() if isinstance(one, Verification)] == [
        (total, total, "full"),
        (total, 0, "full"),
    ]
    assert all(seal(one) for one in (backup, other))


def test_rot_in_a_shared_file_is_found_in_each_backup_although_it_is_read_once(backup: Path) -> None:
    shared_clone(backup, 2)
    flip(next(path for path in files(backup) if path.stat().st_size), 0)

    found = run_all(backup, Extent())

    assert [one.exit_code for one in found.values()] == [4, 4]


def test_a_shared_file_that_is_changed_between_two_backups_is_read_again(backup: Path) -> None:
    other = shared_clone(backup, 2)
    rotten = next(path for path in files(backup) if path.stat().st_size)

    with at(backup, START) as job:
        verifier = Verifier(job, [backup, other], Extent())
        assert verifier.verify(backup).exit_code == 0
        flip(rotten, 0)
        assert verifier.verify(other).exit_code == 4


def test_what_is_known_of_shared_files_is_bounded(
    backup: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_clone(backup, 2)
    monkeypatch.setattr(verifying, "KNOWN", 3)

    run_all(backup, Extent())

    assert len(reads) == 2 * len(files(backup)) - 3


def test_damage_that_another_backup_shares_is_not_forgotten_in_the_same_run(backup: Path) -> None:
    """Its seal is read when its turn comes, not before."""
    other = shared_clone(backup, 2)
    flip(next(path for path in files(backup) if path.stat().st_size), 0)

    found = run_all(backup, Extent(percent=60))

    assert [one.exit_code for one in found.values()] == [4, 4]
    assert [one.intact for one in (seal(backup), seal(other)) if one] == [False, False]


# -- a time to spend -----------------------------------------------------------------------------


def test_no_file_is_begun_after_the_time_and_the_next_run_goes_on(backup: Path, reads: list[Path]) -> None:
    ten_looks = Extent(budget=timedelta(seconds=10))

    found = run(backup, ten_looks, ticks=counting())

    assert 0 < len(reads) < 10
    assert reads == files(backup)[: len(reads)]
    assert (found.exit_code, found.covered) == (0, sum(path.stat().st_size for path in reads))
    assert found.left == record(backup).totals.bytes - found.covered
    while found.left_files:
        found = run(backup, ten_looks, START + DAY, ticks=counting())
    assert reads == files(backup)
    done = seal(backup)
    assert done
    assert (done.level, done.verified_at) == ("full", START)


def test_time_enough_is_a_whole_verification(backup: Path) -> None:
    found = run(backup, Extent(budget=timedelta(hours=1)))

    assert (found.left, found.left_files, found.remembered) == (0, 0, True)
    done = seal(backup)
    assert done
    assert (done.level, done.verified_at) == ("full", START)


def test_what_the_time_did_not_reach_is_named_and_what_was_found_damaged_stays_so(cli: Cli, backup: Path) -> None:
    second, third = clone(backup, 2), clone(backup, 3)
    assert run(second, Extent()).exit_code == 0

    found = run_all(backup, Extent(budget=timedelta(seconds=5)), ticks=counting())

    unread = [one for one in found.values() if isinstance(one, Unread)]
    assert list(found) == [third, backup, second]
    assert [one.directory for one in unread] == [backup, second]
    assert [one.exit_code for one in unread] == [0, 0]
    flip(files(second)[0], 0)
    assert run(second, Extent(), START + DAY).exit_code == 4
    found = run_all(backup, Extent(budget=timedelta(seconds=5)), ticks=counting())
    assert found[second].exit_code == 4


# -- what was read not long ago ------------------------------------------------------------------

MONTH = Extent(max_age=30 * DAY)


def test_what_was_read_not_long_ago_is_not_read_again(backup: Path, reads: list[Path]) -> None:
    other = clone(backup, 2)
    run(backup, Extent())
    reads.clear()

    found = run_all(backup, MONTH, START + 29 * DAY)

    assert list(found) == [other, backup]
    assert isinstance(found[backup], Unread)
    assert reads
    assert all(path.is_relative_to(other) for path in reads)


def nothing(_backup: Path) -> None:
    pass


def find_damage(backup: Path) -> None:
    flip(files(backup)[0], 0)
    assert run(backup, Extent()).exit_code == 4
    flip(files(backup)[0], 0)


def forget_the_fingerprint(backup: Path) -> None:
    """A seal as an earlier version wrote it."""
    path = backup.parent / ".state" / "seals" / f"{record(backup).id}.json"
    fields = {k: v for k, v in json.loads(path.read_bytes()).items() if k not in ("fingerprint", "round")}
    path.write_text(json.dumps(fields))
    remembered = seal(backup)
    assert remembered
    assert (remembered.verified_at, remembered.level, remembered.intact) == (START, "full", True)


def doubt_it(backup: Path) -> None:
    """The disk refused a file since."""
    remembered = seal(backup)
    assert remembered
    Catalog(backup.parent).remember(backup, replace(remembered, unread_at=START))


@pytest.mark.parametrize(
    ("change", "days"),
    [
        (nothing, 31),
        (nothing, -1),
        (touch, 1),
        (replace_by_a_copy, 1),
        (change_the_record, 1),
        (find_damage, 1),
        (forget_the_fingerprint, 1),
        (doubt_it, 1),
    ],
)
def test_what_is_too_old_or_was_touched_is_read_again(
    backup: Path, reads: list[Path], change: Callable[[Path], None], days: int
) -> None:
    run(backup, Extent())
    change(backup)
    reads.clear()

    found = run(backup, MONTH, START + days * DAY)

    assert sorted(reads) == sorted(files(backup))
    assert found.level == "full"


def test_a_record_replaced_while_it_was_verified_is_not_called_verified(backup: Path) -> None:
    """By another that says the same of every file: what was remembered is of the one that was read."""
    other = fmt.record_bytes(replace(record(backup), host="another"))

    def replace_it(_event: Event) -> None:
        if (backup / fmt.RECORD).read_bytes() != other:
            overwrite(backup / fmt.RECORD, other)

    with at(backup, START) as job:
        found = Verifier(job, [backup], Extent()).verify(backup, replace_it)

    assert isinstance(found, Verification)
    assert found.exit_code == 0
    assert seal(backup) is None


def test_nothing_to_read_is_success_and_is_said(cli: Cli, backup: Path) -> None:
    assert in_catalog(cli, backup, "verify").code == 0

    shown = in_catalog(cli, backup, "verify", "--all", "--max-age", "30d")
    as_json = in_catalog(cli, backup, "verify", "--all", "--max-age", "30d", "--json").json()

    assert shown.code == 0
    assert shown.out.startswith(f"not read: {record(backup).id}: verified ")
    assert "nothing was read" in shown.err
    assert [(one["verdict"], one["why"], one["left_bytes"]) for one in as_json] == [
        ("not read", "verified not long ago", 0)
    ]


def test_the_line_of_a_timer(backup: Path, reads: list[Path]) -> None:
    """`--all --max-age 30d --time-budget 5m`, night after night."""
    other = clone(backup, 2)
    nightly = Extent(max_age=30 * DAY, budget=timedelta(seconds=20))

    for night in range(20):
        run_all(backup, nightly, START + night * DAY, ticks=counting())
    everything = {path for one in (backup, other) for path in files(one)}
    assert set(reads) == everything
    assert len(reads) == len(everything)

    reads.clear()
    run_all(backup, nightly, START + 20 * DAY, ticks=counting())
    assert reads == []
    run_all(backup, nightly, START + 40 * DAY, ticks=counting())
    assert reads


# -- the command line ----------------------------------------------------------------------------


def test_a_sample_says_what_is_left_and_list_and_show_how_far_it_got(cli: Cli, backup: Path) -> None:
    shown = in_catalog(cli, backup, "verify", "--sample", "30%")

    assert shown.code == 0
    assert shown.out.startswith(f"intact so far: {record(backup).id}: ")
    assert " left of the round begun " in shown.out
    assert "left for another time" in shown.err
    (listed,) = in_catalog(cli, backup, "list", "--json").json()
    assert (listed["verified"], listed["verified_at"]) == (None, None)
    percent = 100 * listed["round"]["bytes"] // listed["bytes"]
    assert 30 <= percent < 100
    assert in_catalog(cli, backup, "list").out.rstrip().endswith(f" {percent} %")
    assert f"never wholly; {percent} % read since " in in_catalog(cli, backup, "show").out
    assert (
        f"never verified on this machine: `docmind-backup verify {backup}`"
        in in_catalog(cli, backup, "restore-plan").out
    )

    (again,) = in_catalog(cli, backup, "verify", "--sample", "100%", "--json").json()
    assert (again["level"], again["left_bytes"], again["remembered"]) == ("part", 0, True)
    assert again["covered_bytes"] == again["read_bytes"] == listed["bytes"] - listed["round"]["bytes"]
    (listed,) = in_catalog(cli, backup, "list", "--json").json()
    assert (listed["verified"], listed["verified_level"], listed["round"]) == ("intact", "full", None)
    assert listed["verified_at"] == again["since"]


def test_a_sample_that_cannot_be_remembered_says_that_the_next_begins_at_the_same_place(
    cli: Cli, backup: Path, reads: list[Path]
) -> None:
    (backup.parent / ".state").write_text("in the way")

    for _ in range(2):
        shown = in_catalog(cli, backup, "verify", "--sample", "10%")
        assert shown.code == 0
        assert "could not be remembered" in shown.err
        assert "begins at the same place" in shown.err

    assert reads[: len(reads) // 2] == reads[len(reads) // 2 :]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--sample", "10"), "'10'"),
        (("--sample", "0%"), "'0%'"),
        (("--sample", "101%"), "'101%'"),
        (("--sample", "-5%"), "'-5%'"),
        (("--sample", "ten%"), "'ten%'"),
        (("--max-age", "30"), "'30'"),
        (("--max-age", "soon"), "'soon'"),
        (("--time-budget", "5"), "'5'"),
        (("--time-budget", "5m5m"), "'5m5m'"),
        (("--time-budget", "0s"), "'0s'"),
        (("--time-budget", "1y"), "'1y'"),
        (("--quick", "--sample", "10%"), "--quick"),
        (("--quick", "--max-age", "1d"), "--quick"),
        (("--quick", "--time-budget", "1m"), "--quick"),
    ],
)
def test_what_cannot_be_meant_is_exit_2_and_named(
    cli: Cli, backup: Path, reads: list[Path], options: tuple[str, ...], named: str
) -> None:
    shown = in_catalog(cli, backup, "verify", *options)

    assert shown.code == 2
    assert named in shown.err
    assert "hint: " in shown.err
    assert reads == []


def test_shares_and_times_are_read_as_written() -> None:
    assert [parse_percent(text) for text in ("10%", "2.5%", "100 %")] == [10, 2.5, 100]
    assert [parse_budget(text).total_seconds() for text in ("45s", "5m", "1h30m", "1d")] == [45, 300, 5400, 86400]
    with pytest.raises(UsageError, match="'٣%'"):
        parse_percent("٣%")


def test_looking_and_pruning_read_no_data_and_ask_for_no_fingerprint(
    cli: Cli, backup: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clone(backup, 2)
    run(backup, TENTH)
    reads.clear()
    asked: list[Path] = []
    monkeypatch.setattr(verifying, "fingerprint", asked.append)

    for command in (["list"], ["list", "--json"], ["show"], ["restore-plan"], ["prune", "--keep-last", "1"]):
        assert in_catalog(cli, backup, *command).code in (0, 3)

    assert (reads, asked) == ([], [])


# -- seals ---------------------------------------------------------------------------------------


def test_a_seal_is_read_back_as_it_was_written(backup: Path) -> None:
    run(backup, Extent())
    run(backup, TENTH, START + DAY)
    remembered = seal(backup)
    assert remembered

    assert remembered.fingerprint
    assert fmt.read_seal(fmt.seal_bytes(remembered)) == remembered


@pytest.mark.parametrize("bad", [[1], {}, {"started_at": "x", "files": 1, "bytes": 1, "fingerprint": ""}, 7])
def test_a_seal_whose_round_is_none_is_no_seal(bad: object) -> None:
    good = Seal("0" * 64, START, "full", intact=True)
    fields = {**json.loads(fmt.seal_bytes(good)), "round": bad}

    with pytest.raises(ValueError, match=r"."):
        fmt.read_seal(json.dumps(fields).encode())
