"""A backup that another command removes between being found and being looked at is said to be gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import clone, overwrite
from tests.conftest import Cli
from tests.environments import DocMindV2

from docmind_backup import rounds
from docmind_backup.catalog import Catalog


@pytest.mark.parametrize(("then", "code"), [("it goes", 10), ("its record is replaced", 4)])
def test_one_that_goes_while_hold_waits_is_not_held(
    then: str, code: int, cli: Cli, offline: DocMindV2, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Catalog.lock

    @contextmanager
    def lock(self: Catalog, wait_s: float = 0) -> Iterator[None]:
        with really(self, wait_s):
            shutil.rmtree(first) if then == "it goes" else overwrite(first / "backup.json", b"{}")
            yield

    monkeypatch.setattr(Catalog, "lock", lock)

    held = cli("hold", "latest", "-C", offline.project)

    assert (held.code, str(first) in held.err, "hint: " in held.err) == (code, True, True), held.err
    assert list(offline.backups.glob(".state/holds/*")) == []


@pytest.mark.parametrize(("words", "left", "code"), [(["--all"], 1, 0), (["--all"], 0, 10), (["latest"], 1, 10)])
def test_one_that_goes_before_its_turn_is_no_damage(
    words: list[str],
    left: int,
    code: int,
    cli: Cli,
    offline: DocMindV2,
    first: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = clone(first, 2)
    really = rounds.Verifier.verify

    def verify(self: rounds.Verifier, *args: Any) -> Any:
        for backup in (first, second)[left:]:
            shutil.rmtree(backup, ignore_errors=True)
        if words == ["latest"]:
            shutil.rmtree(args[0], ignore_errors=True)
        return really(self, *args)

    monkeypatch.setattr(rounds.Verifier, "verify", verify)

    verified = cli("verify", *words, "-C", offline.project)

    assert (verified.code, "is gone" in verified.err) == (code, True), verified.err
    assert "not made by this tool" not in verified.err
