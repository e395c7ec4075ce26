"""The structural check of collection snapshots: genuine ones pass, cut and incomplete ones do not."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.snapshots import (
    GENUINE,
    checked,
    content,
    joined,
    made,
    pieces,
    problems,
    recorded,
)

# -- sound ones ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENUINE)
def test_a_genuine_snapshot_is_sound_and_read_to_its_end(name: str, tmp_path: Path) -> None:
    data, told = recorded(name), list[int]()
    assert checked(tmp_path, data, told.append) == ()
    assert sum(told) == len(data)
    assert min(told) >= 0


@pytest.mark.parametrize("padding", [512, 10240, 3 * 2**20])
def test_padding_after_the_end_is_no_damage(padding: int, tmp_path: Path) -> None:
    assert checked(tmp_path, recorded("image") + bytes(padding)) == ()


@pytest.mark.parametrize("optional", ["0/wal/open-1", "0/wal/open-2", "shard_key_mapping.json", "payload_index.json"])
def test_what_a_restore_can_do_without_may_be_absent(optional: str, tmp_path: Path) -> None:
    parts = pieces(recorded("text"))
    del parts[optional]
    assert problems(tmp_path, parts) == ""


def test_the_form_before_1_12_with_dot_slash_and_without_holes_is_sound(tmp_path: Path) -> None:
    parts = {
        name: made(f"./{name}", content(blocks))
        for name, blocks in pieces(recorded("text")).items()
        if "wal" not in name
    }
    folders = {name: made(name, type=tarfile.DIRTYPE) for name in ("./", "./0/", "./0/segments/", "./0/wal/")}
    assert problems(tmp_path, folders | parts) == ""


def test_a_segment_that_is_a_folder_is_sound_as_long_as_it_is_whole(tmp_path: Path) -> None:
    parts = pieces(recorded("image"))
    (segment, *others) = [name for name in parts if name.endswith(".tar")]
    inner = pieces(content(parts.pop(segment)))
    for name in others:
        del parts[name]
    for name in ("segment.json", "version.info"):
        file = f"0/segments/one/files/{name}"
        parts[file] = made(file, content(inner[f"snapshot/files/{name}"]))
    assert problems(tmp_path, parts) == ""
    del parts["0/segments/one/files/version.info"]
    assert problems(tmp_path, parts) == "0/segments/one lacks its version.info"


def test_names_longer_than_a_header_are_read(tmp_path: Path) -> None:
    long_name = f"0/wal/{'x' * 180}"
    assert problems(tmp_path, pieces(recorded("image")) | {"long": made(long_name)}) == ""
    assert "leads out" in problems(tmp_path, pieces(recorded("image")) | {"long": made(f"{long_name}/../../y")})


# -- cut off -------------------------------------------------------------------------------------


def test_a_cut_at_any_block_is_found(tmp_path: Path) -> None:
    data = recorded("image")
    unnoticed = [size for size in range(0, len(data), 512) if not checked(tmp_path, data[:size])]
    assert unnoticed == []


@given(st.integers(min_value=0, max_value=len(recorded("text")) - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_a_cut_at_any_byte_is_found(tmp_path: Path, size: int) -> None:
    assert checked(tmp_path, recorded("text")[:size])


def test_losing_only_the_last_block_of_zeros_is_found_and_said(tmp_path: Path) -> None:
    assert "two blocks of zeros" in checked(tmp_path, recorded("image")[:-512])[0]


def test_a_segments_tar_cut_at_any_block_is_found(tmp_path: Path) -> None:
    parts = pieces(recorded("image"))
    for name in [name for name in parts if name.endswith(".tar")]:
        inner = content(parts[name])
        cuts = range(0, len(inner), 512)
        unnoticed = [at for at in cuts if not problems(tmp_path, parts | {name: made(name, inner[:at])})]
        assert unnoticed == []


def test_a_header_turned_to_zeros_hides_nothing(tmp_path: Path) -> None:
    for at in tarfile_offsets(recorded("image")):
        data = bytearray(recorded("image"))
        data[at : at + 512] = bytes(512)
        assert checked(tmp_path, bytes(data))


def test_a_header_turned_to_zeros_inside_a_segment_hides_nothing(tmp_path: Path) -> None:
    parts = pieces(recorded("image"))
    name = next(name for name in parts if name.endswith(".tar"))
    inner = content(parts[name])
    for at in tarfile_offsets(inner):
        assert problems(tmp_path, parts | {name: made(name, inner[:at] + bytes(512) + inner[at + 512 :])})


def test_a_segments_tar_goes_on_to_the_end_of_its_member(tmp_path: Path) -> None:
    """Also when all that is necessary comes before the gap."""
    parts = pieces(recorded("image"))
    name = next(name for name in parts if name.endswith(".tar"))
    inner = pieces(content(parts[name]))
    first = b"".join(inner.pop(f"snapshot/files/{file}") for file in ("segment.json", "version.info"))
    rest = b"".join(inner.values())
    assert problems(tmp_path, parts | {name: made(name, first + rest)}) == ""
    assert "something follows" in problems(tmp_path, parts | {name: made(name, first + bytes(512) + rest)})


def test_a_cut_names_the_member_it_goes_through(tmp_path: Path) -> None:
    (told,) = checked(tmp_path, recorded("image")[:10_240])
    assert "0/segments/be008fa6-cf81-4542-8d31-7270355d8ff4.tar should go on to byte 33,792" in told


def tarfile_offsets(data: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [member.offset for member in tar]


@pytest.mark.parametrize("junk", [b"", b"junk", bytes(511), bytes(1024), b"\xff" * 4096, b"<!doctype html>" * 100])
def test_what_is_no_tar_is_damage(junk: bytes, tmp_path: Path) -> None:
    assert checked(tmp_path, junk)


def test_junk_after_the_end_is_found(tmp_path: Path) -> None:
    assert "something follows" in checked(tmp_path, recorded("image") + bytes(512) + b"x" * 512)[0]


# -- incomplete ----------------------------------------------------------------------------------


REQUIRED = ["config.json", "version.info", "0/replica_state.json", "0/shard_config.json"]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_member_is_named(name: str, tmp_path: Path) -> None:
    parts = pieces(recorded("text"))
    del parts[name]
    assert problems(tmp_path, parts) == f"{name} is missing"


def test_a_local_shard_without_segments_is_found(tmp_path: Path) -> None:
    parts = {name: blocks for name, blocks in pieces(recorded("n1")).items() if "segments" not in name}
    assert problems(tmp_path, parts) == "shard 1 has no segments"


@pytest.mark.parametrize("snapshot", ["n1", "n2", "custom"])
def test_a_shard_that_the_configuration_names_and_that_is_not_there_is_found(snapshot: str, tmp_path: Path) -> None:
    parts = pieces(recorded(snapshot))
    for shard in {name.split("/")[0] for name in parts if "/" in name}:
        rest = {name: blocks for name, blocks in parts.items() if not name.startswith(f"{shard}/")}
        assert f"shard {shard} has no segments" in problems(tmp_path, rest)


def test_older_servers_wrote_the_shard_keys_as_a_mapping(tmp_path: Path) -> None:
    parts = pieces(recorded("custom"))
    keys = {"shard_key_mapping.json": made("shard_key_mapping.json", b'{"eu": [1], "us": [2]}')}
    assert problems(tmp_path, parts | keys) == ""
    more = {"shard_key_mapping.json": made("shard_key_mapping.json", b'{"eu": [1], "us": [2, 3]}')}
    assert "shard 3 has no segments" in problems(tmp_path, parts | more)


def test_a_collection_with_custom_sharding_and_no_key_yet_has_no_shards(tmp_path: Path) -> None:
    parts = {name: blocks for name, blocks in pieces(recorded("custom")).items() if "/" not in name}
    keys = {"shard_key_mapping.json": made("shard_key_mapping.json", b"[]")}
    assert problems(tmp_path, parts | keys) == ""


@pytest.mark.parametrize("lost", ["segment.json", "version.info"])
def test_a_segment_without_its_description_is_found(lost: str, tmp_path: Path) -> None:
    parts = pieces(recorded("image"))
    name = next(name for name in parts if name.endswith(".tar"))
    inner = pieces(content(parts[name]))
    del inner[f"snapshot/files/{lost}"]
    shorter = {name: made(name, b"".join(inner.values()))}
    assert problems(tmp_path, parts | shorter) == f"{name} lacks its {lost}"


def test_an_empty_version_of_a_segment_is_found_because_the_engine_would_open_it_without_points(
    tmp_path: Path,
) -> None:
    parts = pieces(recorded("image"))
    name = next(name for name in parts if name.endswith(".tar"))
    inner = pieces(content(parts[name]))
    inner["snapshot/files/version.info"] = made("snapshot/files/version.info")
    assert "lacks its version.info" in problems(tmp_path, parts | {name: made(name, b"".join(inner.values()))})


@pytest.mark.parametrize("document", [b"", b"{", b"\xff\xfe", bytes(20), b"[" * 100_000, b"1" * 5000])
@pytest.mark.parametrize(
    "name",
    ["config.json", "shard_key_mapping.json", "payload_index.json", "0/replica_state.json", "0/clocks.json"],
)
def test_a_member_that_should_be_json_and_is_not_is_named(name: str, document: bytes, tmp_path: Path) -> None:
    assert f"{name} is not JSON" in problems(tmp_path, pieces(recorded("text")) | {name: made(name, document)})


@pytest.mark.parametrize(
    "document",
    ["null", "[]", '{"params": 1}', '{"params": {"shard_number": "x"}}', '{"params": {"shard_number": -1}}'],
)
def test_json_of_another_shape_is_no_traceback(document: str, tmp_path: Path) -> None:
    parts = pieces(recorded("text"))
    for name in ("config.json", "shard_key_mapping.json", "0/replica_state.json"):
        assert isinstance(problems(tmp_path, parts | {name: made(name, document.encode())}), str)


def test_a_broken_segment_json_is_found(tmp_path: Path) -> None:
    parts = pieces(recorded("image"))
    name = next(name for name in parts if name.endswith(".tar"))
    inner = pieces(content(parts[name]))
    inner["snapshot/files/segment.json"] = made("snapshot/files/segment.json", b"{")
    assert "segment.json is not JSON" in problems(tmp_path, parts | {name: made(name, b"".join(inner.values()))})


def test_the_fixtures_are_what_they_seem() -> None:
    assert {"text", "image", "n1", "n2", "custom", "ai-memory/conventions"} <= set(GENUINE)
    assert joined(pieces(recorded("image"))) == recorded("image")
    assert json.loads(content(pieces(recorded("custom"))["config.json"]))["params"]["sharding_method"] == "custom"
