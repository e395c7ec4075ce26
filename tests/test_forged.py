"""Records forged whole, their digest made right: one that holds no sense is broken by name and hinders no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import backups, overwrite, reseal
from tests.conftest import Cli, Result
from tests.faults import fuzz

from docmind_backup.core import format as fmt

Document = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz.made(tmp_path_factory.mktemp("made")).parents[2]


class Forged:
    """A project with one backup, and the command line on it."""

    def __init__(self, cli: Cli, project: Path) -> None:
        self._cli = cli
        self.project = project
        (self.backup,) = backups(project / "data" / "backups")

    def __call__(self, command: str, *words: object) -> Result:
        embedded = ("--qdrant-path", self.project / "data" / "qdrant-embedded")
        takes = command in ("create", "restore", "restore-plan")
        return self._cli(command, *words, *(embedded if takes else ()), "-C", self.project)

    def forge(self, change: Callable[[Document], None]) -> None:
        document = json.loads((self.backup / fmt.RECORD).read_bytes())
        change(document)
        overwrite(self.backup / fmt.RECORD, fuzz._resealed(document, fmt.RECORD))


@pytest.fixture
def forged(cli: Cli, made: Path, tmp_path: Path) -> Forged:
    project = tmp_path / made.name
    shutil.copytree(made, project, symlinks=True)
    return Forged(cli, project)


def sequence(document: Document) -> None:
    document["sequence"] = 10**4300 - 1


def size(document: Document) -> None:
    document["totals"]["bytes"] = 10**400


def inactive(document: Document) -> None:
    del document["index_snapshots"][0]["active"]


def elsewhere(document: Document) -> None:
    document["index_snapshots"][0]["name"] = "../../elsewhere"


@pytest.mark.parametrize("change", [sequence, size, inactive, elsewhere])
def test_a_record_without_sense_is_broken_by_name_and_create_goes_on(
    forged: Forged, change: Callable[[Document], None]
) -> None:
    forged.forge(change)

    listed = forged("list", "--json").json()
    assert [(one["directory"], "id" in one) for one in listed] == [(str(forged.backup), False)]
    for command in ("show", "restore-plan"):
        assert forged(command, forged.backup).code == 4
    assert forged("restore", forged.backup, "--dry-run").code == 4
    assert forged("verify", forged.backup).code == 4
    assert forged("create", "--only", "identity").code == 0
    assert len(forged("list", "--json").json()) == 2


def test_the_last_number_there_is_leaves_the_order_to_time(forged: Forged) -> None:
    forged.forge(lambda document: document.update(sequence=fmt.MOST))

    for _ in range(2):
        assert forged("create", "--only", "identity").code == 0

    listed = forged("list", "--json").json()
    assert [one["sequence"] for one in listed] == [fmt.MOST] * 3
    assert [one["started_at"] for one in listed] == sorted((one["started_at"] for one in listed), reverse=True)


@pytest.mark.parametrize(
    ("field", "value"), [("bytes_written", "9" * 4200), ("created_at", '"0001-01-01T00:00:00+14:00"')]
)
def test_a_foreign_manifest_without_sense_is_broken_by_name(forged: Forged, field: str, value: str) -> None:
    theirs = forged.backup.parent / "backup_20260101_000000"
    theirs.mkdir()
    manifest = {"created_at": '"2026-01-01T00:00:00+00:00"', "included": "[]", "bytes_written": "1", field: value}
    (theirs / fmt.MANIFEST).write_text("{" + ",".join(f'"{name}":{text}' for name, text in manifest.items()) + "}")

    assert forged("list").code == 0
    assert [one["directory"] for one in forged("list", "--json").json()] == [str(forged.backup), str(theirs)]


def test_a_line_with_a_time_that_no_file_has_is_damage_to_a_restore(forged: Forged, tmp_path: Path) -> None:
    lines = map(json.loads, (forged.backup / fmt.INVENTORY).read_bytes().splitlines())
    forgery = b"".join(fmt.json_line({**fields, "mtime_ns": int("9" * 29)}) for fields in lines)
    overwrite(forged.backup / fmt.INVENTORY, forgery)
    reseal(forged.backup)

    assert forged("verify", forged.backup).code == 4
    result = forged("restore", forged.backup, "--to", tmp_path / "out", "--yes")
    assert (result.code, "Traceback" in result.err) == (4, False)


def test_a_name_longer_than_any_is_said_to_be(forged: Forged) -> None:
    long = fmt.json_line({"path": "9" * 5000, "type": "directory", "mtime_ns": 0, "mode": "0700"})
    overwrite(forged.backup / fmt.INVENTORY, (forged.backup / fmt.INVENTORY).read_bytes() + long)
    reseal(forged.backup)

    result = forged("verify", forged.backup)

    assert (result.code, "File name too long" in result.out) == (5, True)


def halves(document: Document) -> None:
    """Half a character in every text that is only shown."""
    half = "\ud800"
    document |= {"host": half, "project": half, "notes": [half], "absent_accepted": [half]}
    document["tool"]["version"] = document["scope"]["deployment_id"] = half
    document["sources"][0]["origin"] = f"/{half}"
    document["docmind"]["reasons"] = [half]
    document["qdrant"]["collections"][0] |= {"name": half, "role": half, "taken_at": half, "sharding": half}
    document["qdrant"] |= {"url": half, "version": half}
    lack = {"part": "logs", "source": half, "reason": "missing", "detail": half, "rebuildable": False}
    document["omissions"] = [lack]


def test_half_a_character_in_a_text_is_shown_as_its_number(forged: Forged, tmp_path: Path) -> None:
    forged.forge(halves)

    assert "\\ud800" in forged("show", forged.backup).out
    for command, *words in (["list"], ["show", forged.backup, "--json"], ["verify", forged.backup], ["create", "-n"]):
        assert forged(str(command), *words).code == 0
    for more in ((), ("--json",), ("--script",)):
        assert forged("restore-plan", forged.backup, *more).code == 0
    assert forged("restore", forged.backup, "--dry-run").code == 0
    assert forged("restore", forged.backup, "--to", tmp_path / "out", "--yes").code in (0, 3)
