"""Decide which backups stay. No I/O, no clock.

Invariant 4 of the design: nothing good is removed on the strength of something worse. So a backup is only
ever measured against backups that *count* (they lack nothing but the rebuildable cache, are not known to be
damaged, could be read when last verified, are not held, not dated in the future) and whose scope covers its
own: seven backups without Qdrant never push out one with it. Newer means a higher sequence number, never a
later date: clocks jump.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import accumulate, chain

from docmind_backup.core.model import Backup, Scope
from docmind_backup.errors import UsageError


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What to keep by. A backup stays when any rule keeps it; 0 and None switch a rule off."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None
    """Counted back from the newest backup that counts, not from today: a pause removes nothing. Where the clock went
    back, from the latest date of those that came after it."""
    incomplete: int = 3
    """How many incomplete ones older than the newest good one stay."""

    def empty(self) -> bool:
        """Nothing to keep by: applying it would leave only what the floors protect."""
        return not self.within and not any(rule.count(self) for rule in _RULES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of one backup, and why."""

    backup: Backup
    keep: bool
    reasons: tuple[str, ...]
    """Short words for people, never empty: everything that kept it, or why nothing did."""


def apply(policy: RetentionPolicy, backups: Sequence[Backup], now: datetime, *, zone: tzinfo) -> tuple[Verdict, ...]:
    """One verdict for each backup, newest first, whatever order they came in.

    Hours, days, weeks, months and years are natural ones in `zone`. Applied again to those that stay, it
    removes nothing more. Raises UsageError when the policy is empty or a number in it is negative.
    """
    _refuse_nonsense(policy)
    verdicts = chain.from_iterable(_judge(policy, line, zone) for line in _lines(backups, now))
    return tuple(sorted(verdicts, key=lambda verdict: _age(verdict.backup), reverse=True))


def parse_within(text: str) -> timedelta:
    """The time that restic's words mean: `7d`, `2y5m7d3h`; y is 365 days, m 30 days, w 7 days.

    Each unit at most once, in any order. Raises UsageError, naming the text.
    """
    amounts = re.findall(r"([0-9]+)([ymwdh])", text)
    if not re.fullmatch(r"([0-9]{1,6}[ymwdh])+", text) or len({unit for _, unit in amounts}) < len(amounts):
        raise UsageError(
            f"not a length of time: {text!r}",
            hint="write it as 7d or 2y5m7d3h: y (365 days), m (30 days), w (7 days), d, h, each once",
        )
    return sum((int(amount) * _UNITS[unit] for amount, unit in amounts), timedelta())


_UNITS: Mapping[str, timedelta] = {
    "y": timedelta(days=365),
    "m": timedelta(days=30),
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
}


# -- the rules -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """Keep the newest backup of each of the newest `count` buckets that have any."""

    name: str
    bucket: Callable[[int, datetime], str]
    """From its place among its rivals (1 is the newest) and its local time; equal names, one bucket."""
    count: Callable[[RetentionPolicy], int]
    kept: str = "{rule} {bucket}"
    """What a backup that it keeps is told."""


def _hour(_place: int, local: datetime) -> str:
    """With the offset, for the night that has an hour twice: those are two hours."""
    return f"{local.date()} {local.hour:02}:00 {local:%z}"


def _week(_place: int, local: datetime) -> str:
    year, week, _day = local.isocalendar()
    return f"{year}-W{week:02}"


_RULES = (
    _Rule("last", lambda place, _: str(place), lambda policy: policy.last, kept="last {bucket} of {count}"),
    _Rule("hourly", _hour, lambda policy: policy.hourly),
    _Rule("daily", lambda _, local: str(local.date()), lambda policy: policy.daily),
    _Rule("weekly", _week, lambda policy: policy.weekly),
    _Rule("monthly", lambda _, local: str(local.date())[:7], lambda policy: policy.monthly),
    _Rule("yearly", lambda _, local: str(local.date())[:4], lambda policy: policy.yearly),
)


def _refuse_nonsense(policy: RetentionPolicy) -> None:
    numbers = {rule.name: rule.count(policy) for rule in _RULES} | {"incomplete": policy.incomplete}
    for name, number in numbers.items():
        if number < 0:
            raise UsageError(f"keep-{name} is {number}", hint="give 0 (off) or more")
    if policy.within is not None and policy.within < timedelta():
        raise UsageError(f"keep-within is {policy.within}", hint="give a length of time such as 7d")
    if policy.empty():
        raise UsageError("nothing to keep by: every keep rule is off", hint="give one, such as --keep-last 7")


# -- who is measured against whom ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """The backups of exactly one scope and what they are measured by; each newest first."""

    aside: tuple[tuple[Backup, str], ...]
    """Held or dated in the future, with the word for it: they stay and measure nothing."""
    counting: tuple[Backup, ...]
    lacking: tuple[Backup, ...]
    """The rest: incomplete, shrunk, damaged or not wholly readable."""
    rivals: tuple[Backup, ...]
    """All that count and whose scope covers this one; `counting` is among them."""


def _lines(backups: Sequence[Backup], now: datetime) -> Iterator[_Line]:
    by_scope: defaultdict[Scope, list[Backup]] = defaultdict(list)
    for backup in sorted(backups, key=_age, reverse=True):
        by_scope[backup.record.scope].append(backup)
    counting = {scope: tuple(b for b in own if _counts(b, now)) for scope, own in by_scope.items()}
    for scope, own in by_scope.items():
        covering = chain.from_iterable(some for other, some in counting.items() if other.covers(scope))
        yield _Line(
            aside=tuple((b, word) for b in own if (word := _set_aside(b, now))),
            counting=counting[scope],
            lacking=tuple(b for b in own if not b.counts and not _set_aside(b, now)),
            rivals=tuple(sorted(covering, key=_age, reverse=True)),
        )


def _age(backup: Backup) -> tuple[int, str, str]:
    """What orders backups, and tells them apart: somebody may have copied a backup's directory."""
    return backup.record.sequence, backup.id, str(backup.directory)


def _counts(backup: Backup, now: datetime) -> bool:
    return backup.counts and not _set_aside(backup, now)


def _set_aside(backup: Backup, now: datetime) -> str:
    if backup.held is not None:
        return f"held: {backup.held}" if backup.held else "held"
    return "future-dated" if backup.record.started_at > now else ""


# -- the verdicts --------------------------------------------------------------------------------


_Mark = tuple[Backup, bool, str]
"""What one rule says of one backup: whether it keeps it, and the words for it."""


def _judge(policy: RetentionPolicy, line: _Line, zone: tzinfo) -> Iterator[Verdict]:
    """A backup stays when any mark keeps it; its reasons are the marks that agree with the outcome."""
    own = (*(backup for backup, _ in line.aside), *line.counting, *line.lacking)
    # By identity: a record holds mappings, so a backup has no hash.
    marks: dict[int, list[tuple[bool, str]]] = {id(backup): [] for backup in own}
    for backup, keep, why in _marks(policy, line, zone):
        if id(backup) in marks:
            marks[id(backup)].append((keep, why))
    for backup in own:
        stays = any(keep for keep, _ in marks[id(backup)])
        yield Verdict(backup, stays, tuple(why for keep, why in marks[id(backup)] if keep == stays))


def _marks(policy: RetentionPolicy, line: _Line, zone: tzinfo) -> Iterator[_Mark]:
    yield from ((backup, True, word) for backup, word in line.aside)
    for rule in _RULES:
        if count := rule.count(policy):
            yield from _by_rule(rule, count, line.rivals, zone)
    if policy.within:
        yield from _by_time(policy.within, line.rivals)
    yield from _by_floor(line.counting)
    yield from _by_lack(policy.incomplete, line)


def _by_rule(rule: _Rule, count: int, rivals: Sequence[Backup], zone: tzinfo) -> Iterator[_Mark]:
    buckets: set[str] = set()
    for place, backup in enumerate(rivals, start=1):
        bucket = rule.bucket(place, backup.record.started_at.astimezone(zone))
        if bucket in buckets:
            yield backup, False, f"{rule.name} {bucket} has a newer one"
        elif len(buckets) < count:
            buckets.add(bucket)
            yield backup, True, rule.kept.format(rule=rule.name, bucket=bucket, count=count)
        else:
            beyond = f"beyond {rule.name} {count}"
            yield from ((older, False, beyond) for older in rivals[place - 1 :])
            return


def _by_time(within: timedelta, rivals: Sequence[Backup]) -> Iterator[_Mark]:
    """Held against the latest date of those that are newer, by their sequence: where one of them turns out to be
    damaged, that date can only go back."""
    words = _in_restics_words(within)
    dates = accumulate((rival.record.started_at for rival in rivals), max)
    for backup, latest in zip(rivals, dates, strict=True):
        keep = latest - backup.record.started_at <= within
        yield backup, keep, f"within {words}" if keep else f"not within {words}"


def _in_restics_words(within: timedelta) -> str:
    amounts = ((within.days, "d"), (within.seconds // 3600, "h"))
    return "".join(f"{amount}{unit}" for amount, unit in amounts if amount) or str(within)


def _by_floor(counting: Sequence[Backup]) -> Iterator[_Mark]:
    for backup in counting:
        if backup.record.complete:
            yield backup, True, "newest complete of its scope"
            return


def _by_lack(count: int, line: _Line) -> Iterator[_Mark]:
    """Those that do not count go only once something that does has come after them."""
    if not line.rivals:
        yield from ((backup, True, "no good one covers it") for backup in line.lacking)
        return
    good = line.rivals[0]
    newer = [backup for backup in line.lacking if _age(backup) > _age(good)]
    older = line.lacking[len(newer) :]
    yield from ((backup, True, "not older than the newest good one") for backup in newer)
    yield from ((backup, True, f"{_lack(backup)}, among the newest {count}") for backup in older[:count])
    yield from ((backup, False, f"{_lack(backup)}, older than {good.id}") for backup in older[count:])


def _lack(backup: Backup) -> str:
    if backup.damaged:
        return "damaged"
    if backup.doubted:
        return "not wholly readable"
    return "shrunk" if backup.record.lacks_only_rebuildable else "incomplete"
