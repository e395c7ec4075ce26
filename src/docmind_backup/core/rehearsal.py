"""What a rehearsed restore came to, and whether a collection that came to a server is as recorded. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from docmind_backup.core.model import CollectionRecord, CollectionState
from docmind_backup.core.returning import Expected, differences
from docmind_backup.core.server import Point


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A backup that was restored into scratch."""

    whole: bool
    """All that it holds came back, and was right."""
    checks: tuple[tuple[str, str], ...] = ()
    """(what came back, what was found of it), in words."""
    remarks: tuple[str, ...] = ()
    """Sentences: what was left out on purpose."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A collection that came to a server, held against its record."""

    damage: str = ""
    """Why it is not what was recorded, a sentence."""
    doubt: str = ""
    """Why it may not be, and the server may be the reason."""


def judge_collection(taken: CollectionRecord, found: CollectionState, *, same_version: bool) -> Judged:
    """The number of points is the same on every server; a newer one may describe the same collection otherwise."""
    points = (taken.points_min, taken.points_max)
    if lost := differences(Expected(points), found):
        return Judged(damage=f"restored, it has {'; '.join(lost)}")
    if other := differences(Expected(points, taken.state), found):
        words = f"restored, it has {'; '.join(other)}"
        if same_version:
            return Judged(damage=words)
        return Judged(doubt=f"{words}: the server is of another version than the one it was saved from")
    return Judged()


def judge_sample(sample: Sequence[Point], wanted: int, found: CollectionState) -> Judged:
    """The first points, with payloads and vectors; `wanted`: how many were asked for."""
    there = min(wanted, found.points)
    if len(sample) < there:
        return Judged(damage=f"restored, only {len(sample)} of {there} points asked for can be read")
    if sample and (found.vectors or found.sparse_vectors) and not any(point.vectors for point in sample):
        return Judged(doubt=f"none of {len(sample)} points looked at has a vector")
    return Judged()
