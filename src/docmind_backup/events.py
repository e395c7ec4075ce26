"""One JSON object a line for machines that watch. A sink that fails never costs a backup."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

Emit = Callable[..., None]


class EventLog:
    """Appends events to each of `sinks`; `warn` hears of a sink that cannot be written."""

    def __init__(self, sinks: Iterable[Path], *, clock: Callable[[], datetime], warn: Callable[[str], None]) -> None:
        self._sinks = tuple(sinks)
        self._clock = clock
        self._warn = warn

    def emit(self, event: str, **fields: Any) -> None:
        """One line in each sink: `ts` (UTC, ISO 8601), `event`, and `fields`."""
        line = {"ts": self._clock().isoformat(timespec="milliseconds"), "event": event, **fields}
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        for sink in self._sinks:
            self._append(sink, data)

    def _append(self, sink: Path, data: bytes) -> None:
        """One write, so that lines of several processes never mix; a FIFO without a reader does not block."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(sink, flags, 0o600)
            try:
                if os.write(fd, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(fd)
        except OSError as error:
            self._warn(f"the event was not written to {sink}: {error.strerror}")
