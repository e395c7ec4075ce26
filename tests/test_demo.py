"""The first command: `demo` shows the real ones at work, touches nothing of the user's, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import Cli
from tests.environments import build_v2, snapshot_of_sources


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def test_four_commands_are_shown_and_nothing_is_left(cli: Cli, temporary: Path) -> None:
    shown = cli("demo")

    commands = [line.split()[2] for line in shown.err.splitlines() if line.startswith("$ docmind-backup ")]
    answers = shown.out.splitlines()
    assert shown.code == 0, shown.err
    assert commands == ["create", "list", "verify", "restore-plan"]
    assert answers[0].startswith(f"{temporary}/docmind-demo-")
    assert any(line.startswith("intact: ") for line in answers)
    assert any(line.startswith("restore of ") for line in answers)
    assert "complete: " in shown.err
    assert list(temporary.iterdir()) == []


def test_a_kept_environment_is_one_to_play_with(cli: Cli, tmp_path: Path) -> None:
    shown = cli("demo", "--keep", tmp_path / "kept")

    last = shown.err.splitlines()[-1]
    assert shown.code == 0, shown.err
    assert last == f"next: docmind-backup list -C {tmp_path / 'kept' / 'docmind'}"
    listed = cli(*last.split()[2:], "--json")
    assert [(b["kind"], b["completeness"], b["verified"]) for b in listed.json()] == [("backup", "complete", "intact")]


def test_a_folder_given_relative_to_where_one_stands(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert cli("demo", "--keep", "here").code == 0

    assert cli("list", "-C", "here/docmind").code == 0


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_place_that_is_taken_is_refused_and_left_alone(cli: Cli, tmp_path: Path, what: str) -> None:
    place = tmp_path / "taken"
    content = place / "letter.txt" if what == "folder" else place
    content.parent.mkdir(exist_ok=True)
    content.write_text("dear Ada")

    refused = cli("demo", "--keep", place)

    assert refused.code == 2
    assert str(place) in refused.err
    assert "hint: " in refused.err
    assert content.read_text() == "dear Ada"


def test_the_settings_of_the_users_own_shell_do_not_reach_it(
    cli: Cli, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = build_v2(tmp_path / "docmind")
    before = snapshot_of_sources(env, backups=tmp_path / "nowhere")
    monkeypatch.setenv("DOCMIND_DATA_DIR", str(env.data_dir))
    monkeypatch.setenv("DOCMIND_BACKUP_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("DOCMIND_BACKUP_ENABLED", "false")
    monkeypatch.setenv("docmind_cache__dir", str(env.project / "cache"))

    shown = cli("demo")

    assert shown.code == 0, shown.err
    assert snapshot_of_sources(env, backups=tmp_path / "nowhere") == before
    assert not (tmp_path / "root").exists()
    assert list(temporary.iterdir()) == []
