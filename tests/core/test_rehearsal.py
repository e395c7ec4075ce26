"""What a collection that came to a server is worth, held against its record: tables of values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.core.values import captured, collection

from docmind_backup.core.model import CollectionState
from docmind_backup.core.rehearsal import Judged, judge_collection, judge_sample
from docmind_backup.core.server import Point

TAKEN = captured("docs", "text", config={"params": {}})
FOUND = collection("docs")
OTHERWISE = replace(FOUND, vectors={"text-dense": {"size": 9, "distance": "Cosine"}})
BARE = replace(FOUND, vectors={}, sparse_vectors={})
SEEN, NAKED = Point(1, {}, ("text-dense",)), Point(2, {})


@pytest.mark.parametrize("same_version", [True, False])
def test_points_are_as_many_on_every_server(*, same_version: bool) -> None:
    assert judge_collection(TAKEN, FOUND, same_version=same_version) == Judged()
    lost = judge_collection(TAKEN, replace(FOUND, points=24), same_version=same_version)
    assert lost == Judged(damage="restored, it has 24 points instead of 25")


def test_another_configuration_is_damage_unless_the_server_is_of_another_version() -> None:
    same, newer = (judge_collection(TAKEN, OTHERWISE, same_version=same) for same in (True, False))

    assert same.damage.startswith("restored, it has ")
    assert (same.doubt, newer.damage) == ("", "")
    assert newer.doubt.startswith(same.damage)
    assert newer.doubt.endswith("the server is of another version than the one it was saved from")


@pytest.mark.parametrize(
    ("sample", "wanted", "found", "judged"),
    [
        ((SEEN, NAKED), 2, FOUND, Judged()),
        ((SEEN,), 10, replace(FOUND, points=1), Judged()),
        ((), 10, replace(FOUND, points=0), Judged()),
        ((NAKED, NAKED), 2, BARE, Judged()),
        ((SEEN,), 2, FOUND, Judged(damage="restored, only 1 of 2 points asked for can be read")),
        ((), 10, FOUND, Judged(damage="restored, only 0 of 10 points asked for can be read")),
        ((NAKED, NAKED), 2, FOUND, Judged(doubt="none of 2 points looked at has a vector")),
        ((NAKED,), 1, replace(BARE, sparse_vectors={"s": {}}), Judged(doubt="none of 1 points looked at has a vector")),
    ],
)
def test_points_can_be_read_and_have_vectors_where_the_collection_has(
    sample: tuple[Point, ...], wanted: int, found: CollectionState, judged: Judged
) -> None:
    assert judge_sample(sample, wanted, found) == judged
