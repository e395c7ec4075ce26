"""Commands in processes forked from one that has everything imported: none of them needs a second to start.

Run as a program it is that process: a JSON line [arguments, stdout, stderr] in, a line with the exit code out.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    """docmind-backup with these arguments, in a process of its own."""
    server = _server()
    assert server.stdin
    assert server.stdout
    with tempfile.TemporaryDirectory(prefix="docmind-warm-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        server.stdin.write(json.dumps([words, str(out), str(err)]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def _forked(words: list[str], out: str, err: str) -> int:
    from docmind_backup.cli import main

    pid = os.fork()
    if pid == 0:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
        code = 99
        try:
            code = main(words)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    import docmind_backup.compose
    import docmind_backup.documents
    import docmind_backup.operations
    import docmind_backup.qdrant
    import docmind_backup.render_restore
    import docmind_backup.restores
    import docmind_backup.rounds
    import docmind_backup.settings  # noqa: F401

    for line in sys.stdin:
        print(_forked(*json.loads(line)), flush=True)
