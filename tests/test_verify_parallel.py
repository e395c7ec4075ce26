"""Verifying on all cores finds what one would, names it in the same order, and ends when it is told to."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.catalogs import flip, made_by_the_command_line

from docmind_backup import verify as verifying
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Advanced, Event
from docmind_backup.core.verifier import Altered, Missing, Verdict
from docmind_backup.verify import verify


@pytest.fixture
def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Large enough for all ways: some files count as large here, and there are more than one batch of others."""
    made = made_by_the_command_line(tmp_path, "--no-share")
    monkeypatch.setattr(verifying, "LARGE", 4_000)
    return made


def stored(backup: Path) -> list[Path]:
    return [path for path in sorted((backup / "data").rglob("*")) if path.is_file() and not path.is_symlink()]


def test_findings_are_in_the_order_of_the_inventory(backup: Path) -> None:
    damaged = [path for path in stored(backup) if path.stat().st_size][::3]
    for path in damaged[:-1]:
        flip(path, 0)
    damaged[-1].unlink()

    runs = [verify(backup).findings for _ in range(5)]

    assert len(set(runs)) == 1
    listed = (backup / "inventory.jsonl").read_text(errors="replace")
    places = [listed.index(f'"path":"{finding.path}"') for finding in runs[0]]
    assert places == sorted(places)
    assert {type(finding) for finding in runs[0]} == {Altered, Missing}
    assert {finding.path for finding in runs[0]} == {str(path.relative_to(backup)) for path in damaged}


def test_every_byte_is_told_of_once(backup: Path) -> None:
    told: list[int] = []

    def tell(event: Event) -> None:
        if isinstance(event, Advanced):
            told.append(event.bytes)

    found = verify(backup, on_event=tell)

    own = sum((backup / name).stat().st_size for name in fmt.OWN_FILES if name != fmt.RECORD)
    assert found.verdict is Verdict.INTACT
    assert sum(told) == found.bytes + own


def test_what_the_listener_raises_ends_it_and_no_thread_is_left(backup: Path) -> None:
    seen = 0

    def crash(_event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == 8:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        verify(backup, on_event=crash)

    assert not {"crew"} & {thread.name for thread in threading.enumerate()}
