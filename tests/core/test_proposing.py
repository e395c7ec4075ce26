"""Commands that are proposed look where the one that proposes them did: each option once, where it is taken."""

from __future__ import annotations

import pytest

from docmind_backup.core.proposing import Where, command

WHERE = Where((("-C", "my lab"), ("--dest", "/b"), ("--qdrant-path", "/q"), ("--to", "/t")))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("list", "list -C 'my lab' --dest /b"),
        ("list -C /other", "list -C /other --dest /b"),
        ("restore-plan latest", "restore-plan latest -C 'my lab' --dest /b --qdrant-path /q"),
        ("restore latest --to /x", "restore latest --to /x -C 'my lab' --dest /b --qdrant-path /q"),
        ("restore --resume", "restore --resume -C 'my lab' --dest /b --qdrant-path /q --to /t"),
        ("restore --discard-rollback", "restore --discard-rollback -C 'my lab' --dest /b --qdrant-path /q"),
        ("verify latest", "verify latest -C 'my lab' --dest /b"),
        ("verify '/a b/backup_1'", "verify '/a b/backup_1'"),
    ],
)
def test_a_command_has_the_options_that_it_takes(words: str, said: str) -> None:
    assert WHERE.said(words) == said
    assert WHERE.told(f"`docmind-backup {words}` does it") == f"`docmind-backup {said}` does it"
    assert WHERE.said(WHERE.said(words)) == said
    assert Where().said(words) == words


def test_only_commands_of_ours_between_backticks_are_taken_for_commands() -> None:
    text = "docmind-backup is `not` a command, `docmind-backup`, `docmind-backups list` either"

    assert WHERE.told(text) == text


def test_a_path_is_quoted_for_a_shell() -> None:
    assert command("verify", "/a b") == "docmind-backup verify '/a b'"
