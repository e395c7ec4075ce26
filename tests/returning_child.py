"""Take steps of a collection's return in processes that may be killed. Run by test_returning_killed.py.

For each line of JSON on stdin (`url`, `home`, `steps`) a child is forked, which has its libraries at once: its pid
goes out, it waits for another line, and when it has ended its status goes out.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

import qdrant_client
from tests.returning_worlds import Backup, connected, returning

assert qdrant_client, "imported before there are children"


def main(backup: Backup) -> None:
    for line in sys.stdin:
        go, tell = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(tell)
            os.read(go, 1)
            take(json.loads(line), backup)
            os._exit(0)
        os.close(go)
        print(pid, flush=True)
        sys.stdin.readline()
        os.write(tell, b".")
        os.close(tell)
        print(os.waitpid(pid, 0)[1], flush=True)


def take(task: dict[str, str], backup: Backup) -> None:
    with connected(task["url"]) as server:
        for step in task["steps"].split():
            getattr(returning(server, backup, Path(task["home"])), step)()


if __name__ == "__main__":
    main(pickle.loads(Path(sys.argv[1]).read_bytes()))
