"""Commands given in processes that may be killed: tests.restore_child serves them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


class Commands:
    """Processes that do as told, one after the other."""

    def __init__(self, folder: Path) -> None:
        here = Path(__file__).parent.parent
        path = os.pathsep.join([str(here / "src"), str(here)])
        command = [sys.executable, "-m", "tests.restore_child", str(folder / "said")]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=here,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.pid = 0
        self.said = ""

    def give(self, *words: str, at: int = -1) -> int:
        """The exit code; -9 when it was killed."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps({"words": words, "at": at}), file=self._process.stdin, flush=True)
        self.pid = int(self._process.stdout.readline())
        print(file=self._process.stdin, flush=True)
        told = json.loads(self._process.stdout.readline())
        self.said = told["said"]
        return int(told["code"])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self._process.communicate()
