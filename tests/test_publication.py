"""From the rename on a backup is there: whatever comes then, it is told of, and the last event fits the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Cli
from tests.environments import DocMindV2

from docmind_backup import catalog, durable, executor
from docmind_backup.core import format as fmt

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
ONLY = ("--only", "chat")


def backups_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*backup_*"))


def last_event(root: Path) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((root / "events.jsonl").read_text().splitlines()[-1])
    return event


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["before the rename", "at the flush of the name", "while old ones go"])
def test_a_signal_around_the_publication_is_heard_after_it(
    moment: str, number: signal.Signals, cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, name = {
        "before the rename": (catalog.Catalog, "publish"),
        "at the flush of the name": (durable, "fsync_directory"),
        "while old ones go": (catalog.Catalog, "discard"),
    }[moment]
    really = getattr(at, name)

    def with_a_signal(*args: Any) -> Any:
        if at is not durable or args == (env.backups,):
            os.kill(os.getpid(), number)
        return really(*args)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(at, name, with_a_signal)
        made = cli("create", "-C", env.project, *ONLY)

    (backup,) = backups_in(env.backups)
    assert made.code == SIGNALS[number]
    assert f"hint: {backup} was made" in made.err
    event = last_event(env.backups)
    assert (event["event"], event["exit_code"]) == ("prune_failed", made.code)
    assert "backup_failed" not in (env.backups / "events.jsonl").read_text()
    assert cli("verify", "latest", "-C", env.project).code == 0
    assert cli("create", "-C", env.project, *ONLY).code == 0
    assert last_event(env.backups)["event"] == "backup_created"


def test_a_prune_that_is_interrupted_says_so(cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        assert cli("create", "-C", env.project, *ONLY, "--no-prune").code == 0
    newest = cli("list", "-C", env.project, "--json").json()[0]["id"]
    really = catalog.remove

    def then_a_signal(path: Path) -> None:
        really(path)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(catalog, "remove", then_a_signal)
        pruned = cli("prune", "-C", env.project, "--keep-last", "1")

    assert pruned.code == 143
    event = last_event(env.backups)
    assert (event["event"], event["exit_code"]) == ("prune_failed", 143)
    assert backups_in(env.backups) == [f"backup_{newest}"]
    assert cli("verify", "--all", "-C", env.project).code == 0
    assert cli("prune", "-C", env.project, "--keep-last", "1").code == 0
    assert list((env.backups / ".trash").iterdir()) == []


def test_a_failure_nobody_expected_is_told_too_and_publishes_nothing(
    cli: Cli, env: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("what it was about is nobody's business")

    with monkeypatch.context() as broken:
        broken.setattr(executor, "write_records", fail)
        with pytest.raises(MemoryError):
            cli("create", "-C", env.project, *ONLY)

    event = last_event(env.backups)
    assert (event["event"], event["exit_code"], event["error"]) == ("backup_failed", 1, "MemoryError")
    assert backups_in(env.backups) == []
    assert list(env.backups.glob(".staging-*")) == []
    assert cli("create", "-C", env.project, *ONLY).code == 0


TORN = """
import os, signal, sys
from docmind_backup import durable, records
from docmind_backup.cli import main

def torn(really):
    def write(path, data, **more):
        if path.name != sys.argv[1]:
            return really(path, data, **more)
        path.write_bytes(b'{"half')
        os.kill(os.getpid(), signal.SIGKILL)
    return write

records._write, durable.write_new = torn(records._write), torn(durable.write_new)
main(sys.argv[2:])
"""


def test_killed_while_it_writes_its_own_files_it_is_no_backup_and_only_ours_is_cleaned(
    cli: Cli, env: DocMindV2
) -> None:
    theirs = env.backups / "backup_20260101_000000_0123456789ab"
    theirs.mkdir(parents=True)
    (theirs / "manifest.json").write_bytes(b'{"half')
    for name in fmt.OWN_FILES:
        done = subprocess.run(
            [sys.executable, "-c", TORN, name, "create", "-C", env.project, *ONLY], capture_output=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        (staging,) = env.backups.glob(".staging-*")
        assert (staging / name).read_bytes() == b'{"half'
        assert backups_in(env.backups) == [theirs.name]
        assert f"{staging.name}: unfinished" in cli("list", "-C", env.project).out

    assert cli("create", "-C", env.project, *ONLY, "--keep-last", "1").code == 0

    assert list(env.backups.glob(".staging-*")) == []
    assert len(backups_in(env.backups)) == 2
    assert (theirs / "manifest.json").read_bytes() == b'{"half'


def test_what_a_killed_run_left_of_a_small_file_goes_and_what_is_being_written_stays(cli: Cli, env: DocMindV2) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = os.getppid()
    state = env.backups / ".state"
    assert cli("create", "-C", env.project, *ONLY).code == 0
    assert cli("hold", "latest", "-C", env.project).code == 0
    (held,) = (state / "holds").iterdir()
    left = [folder / f".{held.name}.{dead.pid}.tmp" for folder in (state, state / "seals", state / "holds")]
    written = state / "holds" / f".{held.name}.{alive}.tmp"
    theirs = state / "holds" / "notes.txt"
    for path in (*left, written, theirs):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")

    assert cli("prune", "-C", env.project, "--keep-last", "1").code == 0

    assert not any(path.exists() for path in left)
    assert sorted((state / "holds").iterdir()) == sorted([held, written, theirs])
