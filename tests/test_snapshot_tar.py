"""The structural check of collection snapshots, held to genuine ones and to what was done to them."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docmind_backup.snapshot_tar import MAX_MEMBERS, MAX_PROBLEMS, check

RECORDINGS = Path(__file__).parent / "data" / "recordings"
GENUINE = sorted(
    path.relative_to(RECORDINGS).as_posix().removesuffix(".snapshot.xz")
    for path in RECORDINGS.rglob("*.snapshot.xz")
    if path.name != "shard-stream.snapshot.xz"  # of a shard: not what is checked here
)

END = bytes(1024)


@cache
def recorded(name: str) -> bytes:
    return lzma.decompress((RECORDINGS / f"{name}.snapshot.xz").read_bytes())


Pieces = dict[str, bytes]
"""Member name to its raw blocks: headers, map of holes, content, padding."""


def pieces(snapshot: bytes) -> Pieces:
    with tarfile.open(fileobj=io.BytesIO(snapshot)) as tar:
        members = tar.getmembers()
        starts = [member.offset for member in members] + [tar.offset]
    raw = [snapshot[start:end] for start, end in pairwise(starts)]
    return {member.name: blocks for member, blocks in zip(members, raw, strict=True)}


def joined(parts: Pieces) -> bytes:
    return b"".join(parts.values()) + END


def made(name: str, content: bytes = b"", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def content(blocks: bytes) -> bytes:
    size = tarfile.TarInfo.frombuf(blocks[:512], "utf-8", "strict").size
    return blocks[512 : 512 + size]


def holed(name: str, *, logical: int, entries: list[tuple[int, int]], stored: bytes) -> bytes:
    """A GNU sparse member, whatever its map says."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(stored), tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for at, pair in zip((386, 410, 434, 458), entries, strict=False):
        block[at : at + 24] = b"".join(b"\x80" + number.to_bytes(11, "big") for number in pair)
    block[483:495] = b"\x80" + logical.to_bytes(11, "big")
    return checksummed(bytes(block)) + stored + bytes(-len(stored) % 512)


def checksummed(block: bytes) -> bytes:
    total = sum(block[:148]) + sum(block[156:512]) + 8 * 32
    return block[:148] + b"%06o\0 " % (total & 0o777777) + block[156:]


Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(data: bytes) -> Path:
        path = tmp_path / "c.snapshot"
        path.write_bytes(data)
        return path

    return write


def problems(write: Write, parts: Pieces) -> str:
    return "\n".join(check(write(joined(parts))))


# -- sound ones ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENUINE)
def test_a_genuine_snapshot_is_sound_and_read_to_its_end(name: str, write: Write) -> None:
    data, told = recorded(name), list[int]()
    assert check(write(data), told.append) == ()
    assert sum(told) == len(data)
    assert min(told) >= 0


@pytest.mark.parametrize("padding", [512, 10240, 3 * 2**20])
def test_padding_after_the_end_is_no_damage(padding: int, write: Write) -> None:
    assert check(write(recorded("image") + bytes(padding))) == ()


@pytest.mark.parametrize("optional", ["0/wal/open-1", "0/wal/open-2", "shard_key_mapping.json", "payload_index.json"])
def test_what_a_restore_can_do_without_may_be_absent(optional: str, write: Write) -> None:
    parts = pieces(recorded("text"))
    del parts[optional]
    assert problems(write, parts) == ""


def test_the_form_before_1_12_with_dot_slash_and_without_holes_is_sound(write: Write) -> None:
    parts = {
        name: made(f"./{name}", content(blocks))
        for name, blocks in pieces(recorded("text")).items()
        if "wal" not in name
    }
    folders = {name: made(name, type=tarfile.DIRTYPE) for name in ("./", "./0/", "./0/segments/", "./0/wal/")}
    assert problems(write, folders | parts) == ""


def test_a_segment_that_is_a_folder_is_sound_as_long_as_it_is_whole(write: Write) -> None:
    parts = pieces(recorded("image"))
    (segment, *others) = [name for name in parts if name.endswith(".tar")]
    inner = pieces(content(parts.pop(segment)))
    for name in others:
        del parts[name]
    for name in ("segment.json", "version.info"):
        file = f"0/segments/one/files/{name}"
        parts[file] = made(file, content(inner[f"snapshot/files/{name}"]))
    assert problems(write, parts) == ""
    del parts["0/segments/one/files/version.info"]
    assert problems(write, parts) == "0/segments/one lacks its version.info"


def test_names_longer_than_a_header_are_read(write: Write) -> None:
    long_name = f"0/wal/{'x' * 180}"
    assert problems(write, pieces(recorded("image")) | {"long": made(long_name)}) == ""
    assert "leads out" in problems(write, pieces(recorded("image")) | {"long": made(f"{long_name}/../../y")})


# -- cut off -------------------------------------------------------------------------------------


def test_a_cut_at_any_block_is_found(write: Write) -> None:
    data = recorded("image")
    unnoticed = [size for size in range(0, len(data), 512) if not check(write(data[:size]))]
    assert unnoticed == []


@given(st.integers(min_value=0, max_value=len(recorded("text")) - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_a_cut_at_any_byte_is_found(write: Write, size: int) -> None:
    assert check(write(recorded("text")[:size]))


def test_losing_only_the_last_block_of_zeros_is_found_and_said(write: Write) -> None:
    assert "two blocks of zeros" in check(write(recorded("image")[:-512]))[0]


def test_a_segments_tar_cut_at_any_block_is_found(write: Write) -> None:
    parts = pieces(recorded("image"))
    for name in [name for name in parts if name.endswith(".tar")]:
        inner = content(parts[name])
        cuts = range(0, len(inner), 512)
        unnoticed = [at for at in cuts if not problems(write, parts | {name: made(name, inner[:at])})]
        assert unnoticed == []


def test_a_header_turned_to_zeros_hides_nothing(write: Write) -> None:
    for at in tarfile_offsets(recorded("image")):
        data = bytearray(recorded("image"))
        data[at : at + 512] = bytes(512)
        assert check(write(bytes(data)))


def test_a_header_turned_to_zeros_inside_a_segment_hides_nothing(write: Write) -> None:
    parts = pieces(recorded("image"))
    name = next(name for name in parts if name.endswith(".tar"))
    inner = content(parts[name])
    for at in tarfile_offsets(inner):
        assert problems(write, parts | {name: made(name, inner[:at] + bytes(512) + inner[at + 512 :])})


def tarfile_offsets(data: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [member.offset for member in tar]


@pytest.mark.parametrize("junk", [b"", b"junk", bytes(511), bytes(1024), b"\xff" * 4096, b"<!doctype html>" * 100])
def test_what_is_no_tar_is_damage(junk: bytes, write: Write) -> None:
    assert check(write(junk))


def test_junk_after_the_end_is_found(write: Write) -> None:
    assert "something follows" in check(write(recorded("image") + bytes(512) + b"x" * 512))[0]


# -- incomplete ----------------------------------------------------------------------------------


REQUIRED = ["config.json", "version.info", "0/replica_state.json", "0/shard_config.json"]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_member_is_named(name: str, write: Write) -> None:
    parts = pieces(recorded("text"))
    del parts[name]
    assert problems(write, parts) == f"{name} is missing"


def test_a_local_shard_without_segments_is_found(write: Write) -> None:
    parts = {name: blocks for name, blocks in pieces(recorded("n1")).items() if "segments" not in name}
    assert problems(write, parts) == "shard 1 has no segments"


@pytest.mark.parametrize("snapshot", ["n1", "n2", "custom"])
def test_a_shard_that_the_configuration_names_and_that_is_not_there_is_found(snapshot: str, write: Write) -> None:
    parts = pieces(recorded(snapshot))
    for shard in {name.split("/")[0] for name in parts if "/" in name}:
        rest = {name: blocks for name, blocks in parts.items() if not name.startswith(f"{shard}/")}
        assert f"shard {shard} has no segments" in problems(write, rest)


def test_older_servers_wrote_the_shard_keys_as_a_mapping(write: Write) -> None:
    parts = pieces(recorded("custom"))
    keys = {"shard_key_mapping.json": made("shard_key_mapping.json", b'{"eu": [1], "us": [2]}')}
    assert problems(write, parts | keys) == ""
    more = {"shard_key_mapping.json": made("shard_key_mapping.json", b'{"eu": [1], "us": [2, 3]}')}
    assert "shard 3 has no segments" in problems(write, parts | more)


def test_a_collection_with_custom_sharding_and_no_key_yet_has_no_shards(write: Write) -> None:
    parts = {name: blocks for name, blocks in pieces(recorded("custom")).items() if "/" not in name}
    keys = {"shard_key_mapping.json": made("shard_key_mapping.json", b"[]")}
    assert problems(write, parts | keys) == ""


@pytest.mark.parametrize("lost", ["segment.json", "version.info"])
def test_a_segment_without_its_description_is_found(lost: str, write: Write) -> None:
    parts = pieces(recorded("image"))
    name = next(name for name in parts if name.endswith(".tar"))
    inner = pieces(content(parts[name]))
    del inner[f"snapshot/files/{lost}"]
    shorter = {name: made(name, b"".join(inner.values()))}
    assert problems(write, parts | shorter) == f"{name} lacks its {lost}"


def test_an_empty_version_of_a_segment_is_found_because_the_engine_would_open_it_without_points(
    write: Write,
) -> None:
    parts = pieces(recorded("image"))
    name = next(name for name in parts if name.endswith(".tar"))
    inner = pieces(content(parts[name]))
    inner["snapshot/files/version.info"] = made("snapshot/files/version.info")
    assert "lacks its version.info" in problems(write, parts | {name: made(name, b"".join(inner.values()))})


@pytest.mark.parametrize("document", [b"", b"{", b"\xff\xfe", bytes(20), b"[" * 100_000, b"1" * 5000])
@pytest.mark.parametrize(
    "name",
    ["config.json", "shard_key_mapping.json", "payload_index.json", "0/replica_state.json", "0/clocks.json"],
)
def test_a_member_that_should_be_json_and_is_not_is_named(name: str, document: bytes, write: Write) -> None:
    assert f"{name} is not JSON" in problems(write, pieces(recorded("text")) | {name: made(name, document)})


@pytest.mark.parametrize(
    "document",
    ["null", "[]", '{"params": 1}', '{"params": {"shard_number": "x"}}', '{"params": {"shard_number": -1}}'],
)
def test_json_of_another_shape_is_no_traceback(document: str, write: Write) -> None:
    parts = pieces(recorded("text"))
    for name in ("config.json", "shard_key_mapping.json", "0/replica_state.json"):
        assert isinstance(problems(write, parts | {name: made(name, document.encode())}), str)


def test_a_broken_segment_json_is_found(write: Write) -> None:
    parts = pieces(recorded("image"))
    name = next(name for name in parts if name.endswith(".tar"))
    inner = pieces(content(parts[name]))
    inner["snapshot/files/segment.json"] = made("snapshot/files/segment.json", b"{")
    assert "segment.json is not JSON" in problems(write, parts | {name: made(name, b"".join(inner.values()))})


# -- hostile -------------------------------------------------------------------------------------

HOSTILE = {
    "../up": "leads out",
    "0/../../up": "leads out",
    "/etc/passwd": "leads out",
    "0/wal/..": "leads out",
}


@pytest.mark.parametrize(("name", "said"), HOSTILE.items())
@pytest.mark.parametrize("inside", [False, True])
def test_names_that_lead_out_are_found(name: str, said: str, inside: bool, write: Write) -> None:
    assert said in problems(write, planted(made(name, b"x"), inside=inside))


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "FIFO"),
        (tarfile.XHDTYPE, "does not write"),
        (b"Z", "does not write"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_links_and_devices_are_found(type_: bytes, said: str, inside: bool, write: Write) -> None:
    assert said in problems(write, planted(made("0/wal/x", type=type_), inside=inside))


@pytest.mark.parametrize("twin", ["config.json", "./config.json", "0//replica_state.json", "0/./shard_config.json"])
def test_duplicate_names_are_found_however_they_are_spelt(twin: str, write: Write) -> None:
    assert "is there twice" in problems(write, planted(made(twin, b"{}"), inside=False))


def test_duplicate_names_inside_a_segment_are_found(write: Write) -> None:
    twin = made("snapshot/files/segment.json", b"{}")
    assert "is there twice" in problems(write, planted(twin, inside=True))


def planted(member: bytes, *, inside: bool) -> Pieces:
    """A genuine snapshot with one member more, at the end of it or of its first segment."""
    parts = pieces(recorded("image"))
    if not inside:
        return parts | {"planted": member}
    name = next(name for name in parts if name.endswith(".tar"))
    return parts | {name: made(name, content(parts[name]) + member)}


@pytest.mark.parametrize("inside", [False, True])
def test_a_sparse_bomb_is_found(inside: bool, write: Write) -> None:
    bomb = holed("0/wal/bomb", logical=2**60, entries=[(2**60, 0)], stored=b"")
    assert "would unpack to 1,152,9" in problems(write, planted(bomb, inside=inside))


def test_a_gigabyte_of_honest_holes_is_none(write: Write) -> None:
    wal = holed("0/wal/open-3", logical=2**30, entries=[(0, 512), (2**30, 0)], stored=b"x" * 512)
    assert problems(write, planted(wal, inside=False)) == ""


@pytest.mark.parametrize(
    ("entries", "logical", "said"),
    [
        ([(0, 512), (256, 512)], 1024, "overlaps"),
        ([(1024, 512), (0, 512)], 1536, "overlaps"),
        ([(0, 512)], 1024, "does not fit"),
        ([(0, 512), (2048, 0)], 1024, "does not fit"),
        ([], 1024, "does not fit"),
    ],
)
def test_a_map_of_holes_that_qdrant_could_not_unpack_is_found(
    entries: list[tuple[int, int]], logical: int, said: str, write: Write
) -> None:
    member = holed("0/wal/open-3", logical=logical, entries=entries, stored=b"x" * 1024)
    assert said in problems(write, planted(member, inside=False))


def test_a_document_or_a_segment_with_holes_is_found(write: Write) -> None:
    parts = pieces(recorded("image"))
    segment = next(name for name in parts if name.endswith(".tar"))
    for name, said in (("config.json", "is not JSON"), (segment, "has holes")):
        member = holed(name, logical=4096, entries=[(0, 2), (4096, 0)], stored=b"{}")
        assert said in problems(write, parts | {name: member})


def test_too_many_members_are_found(write: Write) -> None:
    name = b"0/wal/000000"
    block = made(name.decode())
    assert block.startswith(name)
    numbered = (b"0/wal/%06d" % number for number in range(MAX_MEMBERS + 1))
    many = b"".join(_renamed(block, other, sum(other) - sum(name)) for other in numbered)
    assert check(write(many + END)) == (f"more than {MAX_MEMBERS:,} members",)


def _renamed(block: bytes, name: bytes, heavier: int) -> bytes:
    """A hundred thousand times: `checksummed` would be too slow."""
    checksum = b"%06o" % (int(block[148:154], 8) + heavier)
    return name + block[len(name) : 148] + checksum + block[154:]


def test_a_document_too_big_to_parse_is_found(write: Write) -> None:
    parts = pieces(recorded("image"))
    big = made("payload_index.json", b'"' + b"x" * 17 * 2**20 + b'"')
    assert "payload_index.json is not JSON" in problems(write, parts | {"payload_index.json": big})


def test_a_name_too_long_to_hold_is_found(write: Write) -> None:
    header = made("././@LongLink", b"x" * 5000, type=tarfile.GNUTYPE_LONGNAME)
    assert "a name of 5,000 bytes" in problems(write, planted(header + made("x"), inside=False))


def test_no_more_problems_are_told_than_anyone_reads(write: Write) -> None:
    parts = pieces(recorded("image")) | {str(n): made(f"../{n}") for n in range(1000)}
    assert len(check(write(joined(parts)))) == MAX_PROBLEMS


@pytest.mark.parametrize("name", ["\x1b[2J/../x", "../\n", "../\u202egnp", "../" + "x" * 3000, "../\udcff"])
def test_nothing_in_a_hostile_name_reaches_the_terminal(name: str, write: Write) -> None:
    member = made(name) if len(name) < 90 else long_named(name)
    (told,) = check(write(joined(planted(member, inside=False))))
    assert told.isprintable()
    assert len(told) < 300


def long_named(name: str) -> bytes:
    return made("././@LongLink", name.encode() + b"\0", type=tarfile.GNUTYPE_LONGNAME) + made(name[:90])


# -- never a traceback ---------------------------------------------------------------------------


def flips() -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, 511), st.integers(1, 255)), min_size=1, max_size=4)


@given(data=st.data(), flipped=flips(), valid=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_flipped_bytes_in_any_header_are_told_in_sentences(
    write: Write, data: st.DataObject, flipped: list[tuple[int, int]], valid: bool
) -> None:
    """With `valid` the checksum is made right again, so that the fields behind it are reached."""
    snapshot = bytearray(recorded("image"))
    at = data.draw(st.sampled_from(all_headers()))
    for offset, bits in flipped:
        snapshot[at + offset] ^= bits
    if valid:
        snapshot[at : at + 512] = checksummed(bytes(snapshot[at : at + 512]))
    told = check(write(bytes(snapshot)))
    assert all(sentence.isprintable() for sentence in told)


@cache
def all_headers() -> list[int]:
    """Of the outer tar and of both segments'."""
    return list(_headers(recorded("image"), 0))


def _headers(data: bytes, base: int) -> Iterator[int]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            yield base + member.offset
            if member.name.endswith(".tar"):
                end = member.offset_data + member.size
                yield from _headers(data[member.offset_data : end], base + member.offset_data)


@given(st.binary(max_size=4096))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_told_in_sentences(write: Write, data: bytes) -> None:
    assert check(write(data))


def test_a_file_that_cannot_be_read_is_an_oserror_and_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "gone.snapshot")
    with pytest.raises(IsADirectoryError):
        check(tmp_path)


def test_memory_stays_flat_however_big_the_members_are(tmp_path: Path) -> None:
    path, size = tmp_path / "big.snapshot", 2**30
    parts = pieces(recorded("image"))
    with path.open("wb") as file:
        file.write(b"".join(parts.values()))
        header = tarfile.TarInfo("0/wal/big")
        header.size = size
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.seek(size, io.SEEK_CUR)
        file.write(END)
    tracemalloc.start()
    assert check(path) == ()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_the_fixtures_are_what_they_seem() -> None:
    assert {"text", "image", "n1", "n2", "custom", "ai-memory/conventions"} <= set(GENUINE)
    assert joined(pieces(recorded("image"))) == recorded("image")
    assert json.loads(content(pieces(recorded("custom"))["config.json"]))["params"]["sharding_method"] == "custom"
