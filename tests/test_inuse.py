"""Who uses an environment is known by what is locked, also where nobody may look at what others have open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docmind_backup import inuse
from docmind_backup.core.model import Kind
from docmind_backup.errors import Locked
from docmind_backup.inuse import Used, refuse_used

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("CREATE TABLE chat (line)")
db.executescript(sys.argv[2])
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(inuse._GETLK is None, reason="locks cannot be asked for here")
@pytest.mark.parametrize(
    ("doing", "locked"),
    [("PRAGMA journal_mode = WAL; CREATE TABLE more (line)", "chat.db-shm"), ("BEGIN IMMEDIATE", "chat.db")],
)
def test_a_lock_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doing: str, locked: str) -> None:
    """As it is with the processes of another user."""
    monkeypatch.setattr(inuse, "_processes", lambda: iter(()))
    chats = Used(tmp_path / "chat.db", Kind.SQLITE)
    command = [sys.executable, "-c", WRITER, str(chats.path), doing]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin
        assert writer.stdout
        assert writer.stdout.readline() == "there\n"

        with pytest.raises(Locked, match=rf"process {writer.pid} \(.+\) has {locked} locked"):
            refuse_used([chats])

        writer.stdin.close()
    refuse_used([chats])
