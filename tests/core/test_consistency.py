"""What belongs together: which files points name, which proof still holds, what is said of a broken one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.values import captured, collection, record

from docmind_backup.core.consistency import (
    KEPT,
    KEYS,
    NO_ARTIFACTS,
    ArtifactCheck,
    Tally,
    activation_notes,
    artifact_check,
    artifacts_broken,
    broken_pairs,
    changed,
    file_names,
    proof,
    still_proved,
)
from docmind_backup.core.model import ArtifactProof, IndexSnapshot, Part, Reason, Record
from docmind_backup.core.server import Point

ID = "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"
NAME = "20260718T052755-0a1b2c3d"
METADATA = {"docmind_deployment_id": "d1", "docmind_owner": "image"}
INDEX = IndexSnapshot(NAME, "2.0", collections={"text": "docs", "image": "images"}, collection_metadata={})
BOTH = frozenset({Part.QDRANT, Part.ARTIFACTS})
PROOF = ArtifactProof(NAME, "images", 7, 14, 0, (), "", "a" * 64, "20260101_120000_000000000001")
CHECK = ArtifactCheck(NAME, "images", 7, PROOF)
TAKEN = captured("images", "image", 7)


def point(number: int = 0, **payload: Any) -> Point:
    return Point(number, payload)


# -- what points name ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({}, []),
        ({"image_artifact_id": ID, "image_artifact_suffix": ".webp"}, [(f"{ID}.webp", True)]),
        ({"image_artifact_id": ID, "image_artifact_suffix": ".webp.enc"}, [(f"{ID}.webp.enc", True)]),
        ({"image_artifact_id": ID}, [(ID, True)]),
        ({"image_artifact_id": None, "image_artifact_suffix": None}, []),
        ({"image_artifact_suffix": ".webp"}, []),
        (
            {"thumbnail_artifact_id": ID, "thumbnail_artifact_suffix": ".jpg", "image_artifact_id": ID},
            [(ID, True), (f"{ID}.jpg", True)],
        ),
        ({"image_artifact_id": "../../etc/passwd"}, [("../../etc/passwd", False)]),
        ({"image_artifact_id": ID, "image_artifact_suffix": "/../x"}, [(f"{ID}/../x", False)]),
        ({"image_artifact_id": ID, "image_artifact_suffix": ".webp\n"}, [(f"{ID}.webp\n", False)]),
        ({"image_artifact_id": ID.upper()}, [(ID.upper(), False)]),
        ({"image_artifact_id": 5}, [("5", False)]),
        ({"image_artifact_id": ["x"], "image_artifact_suffix": {}}, [("['x']{}", False)]),
    ],
)
def test_a_point_names_files_and_nothing_that_could_lead_out_of_a_folder(
    payload: dict[str, Any], named: list[tuple[str, bool]]
) -> None:
    assert list(file_names(point(**payload))) == named


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=2))


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_whatever_a_payload_holds_what_is_looked_up_is_one_plain_name(payload: dict[str, Any]) -> None:
    for name, possible in file_names(Point(1, payload)):
        assert not possible or (name[:64].isalnum() and "/" not in name and "\0" not in name and ".." not in name)


def missing(*names: str) -> Tally:
    tally = Tally(points=len(names), references=len(names))
    for number, name in enumerate(names):
        tally.miss(point(number), name, late=False)
    return tally


def test_a_tally_knows_the_same_broken_names_again_in_any_order() -> None:
    assert missing("a", "b").digest == missing("b", "a", "a").digest != missing("a").digest
    assert missing().digest == ""


def test_a_tally_does_not_grow_with_what_is_broken() -> None:
    tally = missing(*map(str, range(KEPT + 5)))

    assert (tally.broken, len(tally.examples), len(tally.names)) == (KEPT + 5, 3, KEPT)


def test_what_is_broken_is_said_by_its_first_examples_and_how_many_more() -> None:
    said = artifacts_broken(proof(CHECK, missing(*(f"{n}.webp\x1b[31m" for n in range(5))), NO_ARTIFACTS, "b"))

    assert (said.part, said.source, said.reason, said.rebuildable) == (
        Part.ARTIFACTS,
        "data/artifacts",
        Reason.DAMAGED,
        False,
    )
    assert said.detail.startswith("5 of 5 files that image points name are not there: point 0 names 0.webp?[31m; ")
    assert "; and 2 more; " in said.detail
    assert "more" not in broken_pairs(proof(CHECK, missing("a", "b", "c"), NO_ARTIFACTS, "b"))


# -- what has to be asked, and what is known -----------------------------------------------------


def check(active: IndexSnapshot | None = INDEX, parts: frozenset[Part] = BOTH, *earlier: Record) -> Any:
    return artifact_check(active, [collection("images", "image", 7)], parts, earlier, accept=False)


def test_only_where_both_sides_are_asked_for_can_one_be_held_against_the_other() -> None:
    assert check() == ArtifactCheck(NAME, "images", 7)
    assert check(None) is None
    assert check(INDEX, frozenset({Part.QDRANT})) is None
    assert check(INDEX, frozenset({Part.ARTIFACTS})) is None
    assert check(replace(INDEX, collections={"text": "docs"})) is None
    assert check(replace(INDEX, collections={"image": "images__2"})) is None


def test_the_newest_proof_of_the_same_index_snapshot_is_what_is_known() -> None:
    old, new = (record(artifact_proof=replace(PROOF, points=n)) for n in (5, 7))
    other = record(artifact_proof=replace(PROOF, index_snapshot="another"))

    assert check(INDEX, BOTH, record(), other, new, old).earlier == new.artifact_proof
    assert check(INDEX, BOTH, other).earlier is None


@pytest.mark.parametrize(
    ("changes", "artifacts", "holds"),
    [
        ({}, "a" * 64, True),
        ({}, "b" * 64, False),
        ({"points_max": 8}, "a" * 64, False),
        ({"points_min": 8, "points_max": 8}, "a" * 64, False),
        ({"points_min": 6}, "a" * 64, False),
    ],
)
def test_a_proof_holds_while_neither_points_nor_artifacts_changed(
    changes: dict[str, int], artifacts: str, holds: bool
) -> None:
    assert still_proved(CHECK, replace(TAKEN, **changes), artifacts) == (PROOF if holds else None)


def test_without_a_proof_nothing_is_proved() -> None:
    assert still_proved(replace(CHECK, earlier=None), TAKEN, "a" * 64) is None


def test_what_is_broken_stays_so_until_it_is_accepted() -> None:
    broken = replace(PROOF, broken=2)

    assert still_proved(replace(CHECK, earlier=broken), TAKEN, "a" * 64) == broken
    accepted = still_proved(replace(CHECK, earlier=broken, accept=True), TAKEN, "a" * 64)
    assert accepted == replace(broken, accepted=True)
    assert still_proved(replace(CHECK, earlier=accepted), TAKEN, "a" * 64) == accepted
    assert still_proved(replace(CHECK, accept=True), TAKEN, "a" * 64) == PROOF


def test_what_was_accepted_is_so_for_the_same_names_and_no_others() -> None:
    known = replace(PROOF, broken=1, names=missing("a").digest, accepted=True)
    again = replace(CHECK, earlier=known)

    assert proof(again, missing("a"), NO_ARTIFACTS, "b").accepted
    assert not proof(again, missing("a", "b"), NO_ARTIFACTS, "b").accepted
    assert not proof(again, missing(), NO_ARTIFACTS, "b").accepted
    assert not proof(replace(again, earlier=replace(known, accepted=False)), missing("a"), NO_ARTIFACTS, "b").accepted


# -- index snapshot and collections --------------------------------------------------------------


def notes(found: dict[str, Any], stated: dict[str, Any] = METADATA, deployment: str = "d1") -> list[str]:
    index = replace(INDEX, collection_metadata={"image": stated})
    return list(activation_notes(index, [collection("images", "image", metadata=found)], deployment))


def test_each_pair_that_docmind_will_refuse_is_a_note_of_its_own() -> None:
    assert notes(METADATA) == []
    (note,) = notes({**METADATA, "normalize_image": True})
    assert "collection images: its metadata is not the active index snapshot's" in note
    assert note.endswith("(normalize_image)")
    (note,) = notes(METADATA, deployment="d2")
    assert "its image collection is of deployment d1, data/.deployment-id says d2" in note
    assert "says nothing" in notes(METADATA, deployment="")[0]
    assert len(notes({**METADATA, "docmind_deployment_id": "d3"}, deployment="d2")) == 2


def test_an_index_snapshot_that_says_nothing_of_a_deployment_is_none_of_another() -> None:
    assert notes({"d": 1}, {"d": 1}) == []
    assert list(activation_notes(None, [collection("images", "image")], "d1")) == []


def test_a_collection_is_another_one_when_what_names_and_describes_it_is() -> None:
    before = collection("images", metadata={"d": 1})

    assert not changed(before, replace(before, points=99, payload_schema={"doc_id": {"points": 3}}))
    for now in (
        replace(before, exists=False),
        replace(before, metadata={"d": 2}),
        replace(before, vectors={}),
        replace(before, aliases=("live",)),
    ):
        assert changed(before, now)
