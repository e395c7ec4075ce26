"""The structural check of collection snapshots, asked about what nobody but an enemy would make."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.snapshots import (
    END,
    Pieces,
    checked,
    checksummed,
    content,
    holed,
    joined,
    made,
    pieces,
    problems,
    recorded,
)

from docmind_backup.snapshot_tar import MAX_MEMBERS, MAX_PROBLEMS, check

HOSTILE = {
    "../up": "leads out",
    "0/../../up": "leads out",
    "/etc/passwd": "leads out",
    "0/wal/..": "leads out",
}


@pytest.mark.parametrize(("name", "said"), HOSTILE.items())
@pytest.mark.parametrize("inside", [False, True])
def test_names_that_lead_out_are_found(name: str, said: str, inside: bool, tmp_path: Path) -> None:
    assert said in problems(tmp_path, planted(made(name, b"x"), inside=inside))


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
def test_links_and_devices_are_found(type_: bytes, said: str, inside: bool, tmp_path: Path) -> None:
    assert said in problems(tmp_path, planted(made("0/wal/x", type=type_), inside=inside))


@pytest.mark.parametrize("twin", ["config.json", "./config.json", "0//replica_state.json", "0/./shard_config.json"])
def test_duplicate_names_are_found_however_they_are_spelt(twin: str, tmp_path: Path) -> None:
    assert "is there twice" in problems(tmp_path, planted(made(twin, b"{}"), inside=False))


def test_duplicate_names_inside_a_segment_are_found(tmp_path: Path) -> None:
    twin = made("snapshot/files/segment.json", b"{}")
    assert "is there twice" in problems(tmp_path, planted(twin, inside=True))


def planted(member: bytes, *, inside: bool) -> Pieces:
    """A genuine snapshot with one member more, at the end of it or of its first segment."""
    parts = pieces(recorded("image"))
    if not inside:
        return parts | {"planted": member}
    name = next(name for name in parts if name.endswith(".tar"))
    return parts | {name: made(name, content(parts[name]) + member)}


@pytest.mark.parametrize("inside", [False, True])
def test_a_sparse_bomb_is_found(inside: bool, tmp_path: Path) -> None:
    bomb = holed("0/wal/bomb", logical=2**60, entries=[(2**60, 0)], stored=b"")
    assert "would unpack to 1,152,9" in problems(tmp_path, planted(bomb, inside=inside))


def test_a_gigabyte_of_honest_holes_is_none(tmp_path: Path) -> None:
    wal = holed("0/wal/open-3", logical=2**30, entries=[(0, 512), (2**30, 0)], stored=b"x" * 512)
    assert problems(tmp_path, planted(wal, inside=False)) == ""


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
    entries: list[tuple[int, int]], logical: int, said: str, tmp_path: Path
) -> None:
    member = holed("0/wal/open-3", logical=logical, entries=entries, stored=b"x" * 1024)
    assert said in problems(tmp_path, planted(member, inside=False))


def test_a_document_or_a_segment_with_holes_is_found(tmp_path: Path) -> None:
    parts = pieces(recorded("image"))
    segment = next(name for name in parts if name.endswith(".tar"))
    for name, said in (("config.json", "is not JSON"), (segment, "has holes")):
        member = holed(name, logical=4096, entries=[(0, 2), (4096, 0)], stored=b"{}")
        assert said in problems(tmp_path, parts | {name: member})


def test_too_many_members_are_found(tmp_path: Path) -> None:
    name = b"0/wal/000000"
    block = made(name.decode())
    assert block.startswith(name)
    numbered = (b"0/wal/%06d" % number for number in range(MAX_MEMBERS + 1))
    many = b"".join(_renamed(block, other, sum(other) - sum(name)) for other in numbered)
    assert checked(tmp_path, many + END) == (f"more than {MAX_MEMBERS:,} members",)


def _renamed(block: bytes, name: bytes, heavier: int) -> bytes:
    """A hundred thousand times: `checksummed` would be too slow."""
    checksum = b"%06o" % (int(block[148:154], 8) + heavier)
    return name + block[len(name) : 148] + checksum + block[154:]


def test_a_document_too_big_to_parse_is_found(tmp_path: Path) -> None:
    parts = pieces(recorded("image"))
    big = made("payload_index.json", b'"' + b"x" * 17 * 2**20 + b'"')
    assert "payload_index.json is not JSON" in problems(tmp_path, parts | {"payload_index.json": big})


def test_a_name_too_long_to_hold_is_found(tmp_path: Path) -> None:
    header = made("././@LongLink", b"x" * 5000, type=tarfile.GNUTYPE_LONGNAME)
    assert "a name of 5,000 bytes" in problems(tmp_path, planted(header + made("x"), inside=False))


def test_no_more_problems_are_told_than_anyone_reads(tmp_path: Path) -> None:
    parts = pieces(recorded("image")) | {str(n): made(f"../{n}") for n in range(1000)}
    assert len(checked(tmp_path, joined(parts))) == MAX_PROBLEMS


@pytest.mark.parametrize("name", ["\x1b[2J/../x", "../\n", "../\u202egnp", "../" + "x" * 3000, "../\udcff"])
def test_nothing_in_a_hostile_name_reaches_the_terminal(name: str, tmp_path: Path) -> None:
    member = made(name) if len(name) < 90 else long_named(name)
    (told,) = checked(tmp_path, joined(planted(member, inside=False)))
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
    tmp_path: Path, data: st.DataObject, flipped: list[tuple[int, int]], valid: bool
) -> None:
    """With `valid` the checksum is made right again, so that the fields behind it are reached."""
    snapshot = bytearray(recorded("image"))
    at = data.draw(st.sampled_from(all_headers()))
    for offset, bits in flipped:
        snapshot[at + offset] ^= bits
    if valid:
        snapshot[at : at + 512] = checksummed(bytes(snapshot[at : at + 512]))
    told = checked(tmp_path, bytes(snapshot))
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
def test_any_bytes_are_told_in_sentences(tmp_path: Path, data: bytes) -> None:
    assert checked(tmp_path, data)


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
