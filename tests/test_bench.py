"""The bench runs and notices what is wrong; no figure of it is looked at here."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from tests.bench import __main__ as bench
from tests.bench import peers, rows, work
from tests.bench.measure import BenchError, Command, Contender, interleave, run


def test_rows_are_measured_checked_and_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = tmp_path / "told.json"
    options = ["--quick", "--runs", "1", "--work", str(tmp_path), "--only", "verify,memory-5k", "--json", str(told)]

    assert bench.main(options) == 0

    out = capfd.readouterr().out
    assert "| verify, everything (740 MB) | sha256sum -c |" in out
    lines = json.loads(told.read_text("utf-8"))["lines"]
    assert [(line["at_most"], line["reach"]) for line in lines] == [(0.35, 0.27), (150, 110)]
    assert all(line["value"] > 0 for line in lines)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("runs-")] == []


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--work", str(tmp_path), "--only", "frist"])


def test_the_same_work_is_made_twice_alike(tmp_path: Path) -> None:
    tree = work.QUICK["files-5k"]
    for name in ("a", "b"):
        work.build(tree, tmp_path / name)

    peers.check_tree(tmp_path / "a", tmp_path / "b")


def test_a_copy_that_lacks_a_file_or_differs_is_found(tmp_path: Path) -> None:
    work.build(work.Tree(0, (1, 1), 20, (100, 100)), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, other = sorted((tmp_path / "b").rglob("*.txt"))[:2]

    one.write_bytes(bytes(100))
    with pytest.raises(BenchError, match="is not what the source has"):
        peers.check_tree(tmp_path / "b", tmp_path / "a")

    other.unlink()
    with pytest.raises(BenchError, match="holds 20 files, the source 21"):
        peers.check_tree(tmp_path / "b", tmp_path / "a")


def test_a_process_that_fails_has_no_time() -> None:
    with pytest.raises(BenchError, match="exit 3"):
        run(Command((sys.executable, "-c", "raise SystemExit(3)")))


def test_another_one_is_first_in_each_round_and_checks_come_after_all(tmp_path: Path) -> None:
    seen: list[str] = []

    def contender(name: str) -> Contender:
        def prepare(number: int) -> None:
            seen.append(f"{name}{number}")

        def check(number: int) -> None:
            seen.append(f"check {name}{number}")

        return Contender(name, lambda _: Command(("true",)), prepare, check)

    taken = interleave([contender("a"), contender("b")], 2)

    assert seen == ["a0", "b0", "b1", "a1", "check a0", "check a1", "check b0", "check b1"]
    assert {name: len(samples) for name, samples in taken.items()} == {"a": 2, "b": 2}


def test_bytes_are_read_out_of_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(
        '1 read(3</p/data/a.pdf>, ""..., 4096) = 100\n'
        '1 read(3</p/data/a.pdf>, "", 4096) = 0\n'
        '2 pread64(4</p/data/b.pdf>, ""..., 10, 0 <unfinished ...>\n'
        '1 read(5</elsewhere/c>, ""..., 10) = 10\n'
        "2 <... pread64 resumed>) = 7\n"
        "1 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, 3</p/data/m>, 0) = 0x7f00\n"
        "1 read(9</p/data/d>, 0x7f, 10) = -1 EAGAIN (Resource temporarily unavailable)\n",
        encoding="utf-8",
    )

    assert rows.bytes_read(trace, Path("/p")) == {"/p/data/a.pdf": 100, "/p/data/b.pdf": 7, "/p/data/m": 8192}
