"""Give commands in processes that may be killed. Run by test_restore_whole_killed.py.

For each line of JSON on stdin (`words`, `at`) a child is forked, which has its libraries at once: its pid goes out,
it waits for another line, and when it has ended its exit status and the renames it made go out. With `at` it kills
itself before that rename. The engines are left out: each is a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qdrant_client

from docmind_backup import restored, restores, returning
from docmind_backup.cli import main
from docmind_backup.core.journal import Checked
from docmind_backup.uploads import Patience

assert qdrant_client, "imported before there are children"


def serve(log: Path) -> None:
    for line in sys.stdin:
        go, tell = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(tell)
            os.read(go, 1)
            act(json.loads(line), log)
        os.close(go)
        print(pid, flush=True)
        sys.stdin.readline()
        os.write(tell, b".")
        os.close(tell)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"code": status, "said": log.read_text(errors="replace")}), flush=True)


def act(task: dict[str, Any], log: Path) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    count = 0

    def counted(really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal count
            if count == task["at"]:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return really(*args, **more)

        return call

    os.rename, os.replace = counted(os.rename), counted(os.replace)
    code = main(task["words"])
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    restores._prover = lambda _: None
    restored.opened = lambda piece, _: Checked(piece.stored, "not opened")
    returning.Patience = lambda: Patience(looks=2, pause_s=0)  # type: ignore[misc,assignment]
    serve(Path(sys.argv[1]))
