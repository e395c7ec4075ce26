"""What a target can take: versions at every edge, shards as a real cluster described them, keys by fingerprint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.values import captured, record, stored

from docmind_backup.core import qdrant_rest
from docmind_backup.core.fitness import (
    KDF,
    Key,
    key_warnings,
    keys,
    salt_of,
    shard_problem,
    version,
    version_problem,
    version_warning,
)
from docmind_backup.core.model import Part, Placement

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"

# -- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made_with", "target", "fits"),
    [
        ("1.18.0", "1.18.0", True),
        ("1.18.0", "1.17.99", False),
        ("1.18.3", "1.18.10", True),
        ("1.18.10", "1.18.9", False),
        ("1.18.99", "1.19.0", True),
        ("1.18.99", "1.19.0-rc.1", True),
        ("1.99.0", "2.0.0", False),
        ("0.18.0", "1.19.0", False),
        ("1.18.3", "1.18.3-dev", False),
        ("1.18.3-dev", "1.18.3", True),
        ("1.18.3-dev", "1.18.3-dev", True),
        ("1.18.3", "1.18.3+build.7", True),
        ("1.18.3", "1.18", False),
        ("1.18.3", "1.18.3.1", False),
        ("1.18.3", "1.18.3 ", False),
        ("1.18.3", "v1.18.3", False),
        ("1.18.3", "1.18.٣", False),
        ("1.18.3", "1.18." + "9" * 5000, False),
    ],
)
def test_a_snapshot_goes_to_its_own_minor_version_or_the_next_and_a_pre_release_is_older(
    made_with: str, target: str, fits: bool
) -> None:
    assert (version_problem(made_with, target) == "") is fits


@given(*[st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))] * 2)
def test_never_back_and_never_more_than_one_minor_on(old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    fits = version_problem(".".join(map(str, old)), ".".join(map(str, new))) == ""

    assert fits is (new >= old and new[0] == old[0] and new[1] - old[1] in (0, 1))


@pytest.mark.parametrize(
    ("made_with", "target", "words"),
    [
        ("1.15.5", "1.16.3", "RocksDB"),
        ("1.16.3", "1.17.0", "RocksDB"),
        ("1.16.0", "1.16.1", "seen not to restore"),
        ("1.16.1", "1.16.1", "seen not to restore"),
        ("1.16.1", "1.16.2", ""),
        ("1.14.0", "1.15.0", ""),
        ("1.15.0", "1.15.5", ""),
        ("1.17.0", "1.18.0", ""),
        ("1.18.3", "1.19.0", ""),
        ("", "1.19.0", ""),
    ],
)
def test_what_the_rule_allows_and_experience_does_not_is_a_warning(made_with: str, target: str, words: str) -> None:
    found = version_warning(made_with, target)

    assert bool(found) is bool(words)
    assert words in found


def test_a_version_is_three_numbers() -> None:
    assert version("1.18.3") > version("1.18.3-rc.1")  # type: ignore[operator]
    assert version("nightly") is None


# -- shards --------------------------------------------------------------------------------------


def answered(label: str, file: str = "two-nodes") -> Placement:
    exchanges = json.loads((RECORDINGS / f"{file}.json").read_bytes())
    result = next(one["response"]["json"]["result"] for one in exchanges if one["label"] == label)
    return qdrant_rest.placement(result)


def test_where_shards_lie_is_read_from_what_real_nodes_said() -> None:
    assert answered("collection cluster", "one-node") == Placement((0,))
    assert answered("collection cluster") == Placement((1,), (0,))
    assert answered("custom cluster") == Placement((1,), (2,), ("eu", "us"))
    assert answered("c3 cluster") == Placement((0, 1))


def on(placement: Placement | None, sharding: str = "auto") -> str:
    return shard_problem(captured("c2", placement=placement, sharding=sharding))


def test_a_snapshot_that_lacks_another_nodes_shard_is_refused_by_one_node() -> None:
    problem = on(answered("collection cluster"))

    assert "c2: shard 0 was on another node" in problem
    assert "missing data at shard" in problem
    assert on(answered("c3 cluster")) == on(answered("collection cluster", "one-node")) == on(None) == ""


def test_a_copy_on_another_node_takes_nothing_away() -> None:
    assert on(Placement((0, 1), (0, 1))) == ""


@pytest.mark.parametrize("placement", [None, Placement((1,), (2,), ("eu", "us")), Placement((0,))])
def test_custom_sharding_brings_no_points_however_it_lies(placement: Placement | None) -> None:
    assert "custom sharding" in on(placement, "custom")
    assert "brings no points" in on(placement, "custom")


def test_shard_keys_are_custom_sharding_whatever_the_configuration_says() -> None:
    assert "(eu, us)" in on(answered("custom cluster"))


@pytest.mark.parametrize(
    "result",
    [
        None,
        {},
        {"local_shards": [], "remote_shards": None},
        {"local_shards": [{}], "remote_shards": []},
        {"local_shards": [{"shard_id": "0"}], "remote_shards": []},
        {"local_shards": [{"shard_id": -1}], "remote_shards": []},
        {"local_shards": [{"shard_id": True}], "remote_shards": []},
    ],
)
def test_another_shape_is_not_taken_for_a_placement(result: Any) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        qdrant_rest.placement(result)


# -- keys ----------------------------------------------------------------------------------------

SALT = "ab" * 16
MADE = {"kdf": KDF, "salt": SALT, "image_key": "11", "hmac_secret": "22"}
BACKUP = record(stored(Part.CHAT), key_fingerprints=MADE)


@pytest.mark.parametrize(
    ("recorded", "target", "found"),
    [
        (MADE, {**MADE}, {"image_key": Key.SAME, "hmac_secret": Key.SAME}),
        (MADE, {**MADE, "image_key": "99"}, {"image_key": Key.OTHER, "hmac_secret": Key.SAME}),
        (MADE, {}, {"image_key": Key.NONE, "hmac_secret": Key.NONE}),
        (MADE, None, {"image_key": Key.UNKNOWN, "hmac_secret": Key.UNKNOWN}),
        ({"kdf": KDF, "salt": SALT, "image_key": "11"}, MADE, {"image_key": Key.SAME, "hmac_secret": Key.NEW}),
        ({"kdf": KDF, "salt": SALT, "hmac_secret": "22"}, MADE, {"hmac_secret": Key.SAME}),
        ({}, MADE, {}),
        ({**MADE, "kdf": "argon2"}, MADE, {"image_key": Key.UNKNOWN, "hmac_secret": Key.UNKNOWN}),
        ({**MADE, "salt": "../x"}, MADE, {"image_key": Key.UNKNOWN, "hmac_secret": Key.UNKNOWN}),
        ({"image_key": "11"}, MADE, {"image_key": Key.UNKNOWN}),
    ],
)
def test_each_key_is_held_against_its_recorded_fingerprint(
    recorded: dict[str, str], target: dict[str, str] | None, found: dict[str, Key]
) -> None:
    assert keys(replace(BACKUP, key_fingerprints=recorded), target) == found


def warned(target: dict[str, str] | None, **changes: Any) -> list[str]:
    return list(key_warnings(replace(BACKUP, **changes), target))


def test_a_right_key_is_no_warning() -> None:
    assert warned(MADE) == []
    assert salt_of(BACKUP) == SALT


def test_a_wrong_and_a_missing_key_are_named_with_what_follows_and_where_it_may_be() -> None:
    (other,) = warned({**MADE, "image_key": "99"})
    assert other.startswith("the target's image key is not the backup's: encrypted artifacts (.enc) cannot be read")
    assert "the backup does not hold it" in other
    (none,) = warned({**MADE, "hmac_secret": ""}, included=(Part.ENV,))
    assert none.startswith("the target has no HMAC secret and the backup's environment had one")
    assert "the backup's .env may hold it" in none
    (new,) = warned(MADE, key_fingerprints={k: v for k, v in MADE.items() if k != "hmac_secret"})
    assert "the backup's environment had none" in new


def test_keys_that_cannot_be_compared_are_one_warning() -> None:
    (warning,) = warned(None)
    assert "the same image key and HMAC secret" in warning


def test_the_same_key_under_another_id_is_said() -> None:
    (warning,) = warned({**MADE, "image_key_id": "k2"}, key_fingerprints={**MADE, "image_key_id": "k1"})
    assert "'k1'" in warning
    assert "'k2'" in warning
