"""Completion in bash, zsh and fish: the protocol that the shells speak with the real entry point."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import SHELL, Result

SCRIPT = Path(sys.executable).with_name("docmind-backup")
VARIABLE = "_DOCMIND_BACKUP_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
IDS = ("20260102_120000_0123456789ab", "20260101_120000_0123456789ab")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose catalog has two backups, as far as names tell."""
    folder = tmp_path / "docmind"
    for backup_id in IDS:
        (folder / "data" / "backups" / f"backup_{backup_id}").mkdir(parents=True)
    return folder


def ask(shell: str, line: str, *, cwd: Path | None = None) -> Result:
    """What the shell gets for the words of `line`, the cursor at its end."""
    words = line.split(" ")
    asked = {
        VARIABLE: f"complete_{shell}",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    return run([str(SCRIPT)], asked, cwd=cwd)


def run(command: list[str], variables: dict[str, str] | None = None, *, cwd: Path | None = None) -> Result:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(SHELL)}
    path = f"{SCRIPT.parent}{os.pathsep}{plain.get('PATH', '')}"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**plain, "PATH": path, **(variables or {})}
    )
    return Result(done.returncode, done.stdout, done.stderr)


def offered(shell: str, line: str, *, cwd: Path | None = None) -> list[str]:
    """The words alone: bash gets them so, fish with a tab and help, zsh quoted in a call of _arguments."""
    answer = ask(shell, line, cwd=cwd)
    assert answer.err == ""
    if shell == "zsh":
        lines = answer.out.removeprefix("_arguments '*: :((").removesuffix("\n").removesuffix("))'").splitlines()
        return [line.split('"')[1] for line in lines if '"' in line]
    return [line.split("\t")[0] for line in answer.out.splitlines() if line]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script_that_asks_this_program(shell: str) -> None:
    script = run([str(SCRIPT)], {VARIABLE: f"source_{shell}"})

    assert (script.code, script.err) == (0, "")
    assert f"{VARIABLE}=complete_{shell}" in script.out
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script.out, text=True, check=False).returncode == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_complete(shell: str) -> None:
    assert offered(shell, "docmind-backup re") == ["restore-plan", "restore", "release"]
    assert {"create", "list", "verify", "prune"} <= set(offered(shell, "docmind-backup "))


@pytest.mark.parametrize("shell", SHELLS)
def test_names_that_are_only_there_for_old_scripts_are_not_offered(shell: str) -> None:
    assert offered(shell, "docmind-backup create") == ["create"]


@pytest.mark.parametrize("shell", SHELLS)
def test_options_complete(shell: str) -> None:
    assert offered(shell, "docmind-backup create --keep-w") == ["--keep-weekly", "--keep-within"]
    assert offered(shell, "docmind-backup verify --qu") == ["--quick", "--quiet"]


@pytest.mark.parametrize("shell", SHELLS)
def test_backups_complete_newest_first(shell: str, project: Path) -> None:
    assert offered(shell, "docmind-backup show ", cwd=project) == ["latest", *IDS]
    assert offered(shell, "docmind-backup show 20260101", cwd=project) == [IDS[1]]


@pytest.mark.parametrize("command", ["verify", "restore-plan", "hold", "release"])
def test_every_command_that_takes_a_backup_knows_them(command: str, project: Path) -> None:
    assert offered("bash", f"docmind-backup {command} ", cwd=project) == ["latest", *IDS]


@pytest.mark.parametrize("shell", SHELLS)
def test_backups_complete_where_the_command_line_says_they_are(shell: str, project: Path, tmp_path: Path) -> None:
    (project / "data" / "backups").rename(tmp_path / "kept")

    assert offered(shell, "docmind-backup show -C docmind --dest kept 2026", cwd=tmp_path) == list(IDS)


@pytest.mark.parametrize(
    ("shell", "wrong"), [*((shell, "catalog") for shell in SHELLS), *(("bash", w) for w in ("settings", "dotenv"))]
)
def test_where_anything_is_wrong_nothing_is_offered_and_nothing_said(shell: str, project: Path, wrong: str) -> None:
    match wrong:
        case "catalog":
            shutil.rmtree(project / "data" / "backups")
            (project / "data" / "backups").write_text("a file")
        case "settings":
            (project / "docmind-backup.toml").write_text("keep_lats = 1\n")
        case _:
            (project / ".env").write_bytes(b'\xff\n"')

    answer = ask(shell, "docmind-backup show 2026", cwd=project)

    assert answer.err == ""
    assert answer.out.strip() == ("_files" if shell == "zsh" else "")


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_itself_completes_an_id(project: Path) -> None:
    script = f"""
        eval "$({VARIABLE}=source_bash docmind-backup)"
        COMP_WORDS=(docmind-backup show 20260102) COMP_CWORD=2
        _docmind_backup_completion docmind-backup 20260102 show
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """

    done = run(["bash", "--norc", "-c", script], cwd=project)

    assert (done.out, done.err) == (f"{IDS[0]}\n", "")
