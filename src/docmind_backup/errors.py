"""What can go wrong, as the caller meets it: one class, one exit code, one next step."""

from __future__ import annotations


class BackupError(Exception):
    """An expected failure: says what and where; `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(BackupError):
    """The command line or the configuration asks for something that cannot be meant."""

    exit_code = 2


class DamageFound(BackupError):
    """A backup is not what its record says."""

    exit_code = 4


class NoSuchBackup(BackupError):
    exit_code = 10


class Locked(BackupError):
    """Somebody else holds the lock; the message names the holder."""

    exit_code = 11


class NoSpace(BackupError):
    exit_code = 13


class SourceMissing(BackupError):
    """Everything that was there last time is gone: an unmounted disk, more likely than not."""

    exit_code = 14


class QdrantError(BackupError):
    """Qdrant (or another service) is unavailable or refused."""

    exit_code = 15
    may_be_done = False
    """Whether the server may have done what was asked all the same, or may do it yet."""


class QdrantUnreachable(QdrantError):
    """Nothing answered, or not in time, or somebody in between."""

    may_be_done = True


class QdrantAbsent(QdrantUnreachable):
    """Nobody took the call: nothing was asked."""

    may_be_done = False


class QdrantUnclear(QdrantError):
    """It answered, and the answer does not say what came of the call."""

    may_be_done = True


class QdrantRefused(QdrantError):
    """It answered, and said no: a missing, wrong or read-only key."""


class FormatTooNew(BackupError):
    exit_code = 16


class Interrupted(BaseException):
    """A signal asked us to stop; `exit_code` is 128 + its number.

    No Exception: it comes in the middle of anything, and who deals with a failure, here or in a library, would take it
    for one of theirs and go on.
    """

    def __init__(self, signal_number: int, message: str = "interrupted", *, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        self.hint = hint


class PlanOutdated(BackupError):
    """The target is no longer as a plan found it."""

    exit_code = 17


class Stopped(BaseException):
    """The run is ending: whoever still works leaves off. Never the reason itself."""
