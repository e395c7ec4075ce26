"""Prove one stored file by the engine that wrote it: in a guarded process of its own, never on the file itself."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from docmind_backup.core.proof import Proof
from docmind_backup.errors import BackupError, DamageFound
from docmind_backup.scratch import KEEP_FREE, Scratch, check_room, scratch

INSTALL = "pip install 'docmind-backup[deep]'"
NEEDED = {"qdrant-edge-py": (0, 9), "duckdb": (1, 3)}
"""The oldest versions of the extra's packages: Qdrant's engine before 0.9 does not replay the write-ahead log."""
PATIENCE_S, BYTES_PER_S = 120, 10 * 1024 * 1024
"""How long an engine may take: so long, and so much longer for each byte."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_ANSWER = 64 * 1024 * 1024


class CannotProve(BackupError):
    """The file was not judged: an engine is missing, or it was not given the time or the room."""

    exit_code = 5


class Rows(NamedTuple):
    """A database as its engine found it."""

    rows: dict[str, int]
    """Of each table."""
    engine: str
    orphans: tuple[str, ...] = ()
    """Sentences: foreign keys that lead nowhere, some of them. The application wrote them so."""


def missing(package: str) -> str:
    """Why `package` of the extra cannot be used; empty when it can."""
    try:
        found = version(package)
    except PackageNotFoundError:
        return f"{package} is not installed"
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdecimal())
    least = NEEDED[package]
    return "" if numbers >= least else f"{package} {found} is too old: {'.'.join(map(str, least))} is needed"


def prove_snapshot(path: Path, *, scratch_root: Path | None = None, timeout_s: float | None = None) -> Proof:
    """Open the collection snapshot at `path` with Qdrant's engine, count its points and digest ids and payloads.

    In a scratch folder below `scratch_root` (default: TMPDIR); needs about three times the size of the file there.
    Raises DamageFound when the engine cannot open or read it; CannotProve (exit 5) without the extra or in time;
    NoSpace; OSError when the file cannot be read.
    """
    _require("qdrant-edge-py")
    size = path.stat().st_size
    with scratch(3 * size, scratch_root) as made:
        found = _ask("snapshot", path, made, timeout_s or _patience(size))
    return Proof(
        points=int(found["points"]),
        digest=str(found["digest"]),
        in_segments=int(found["in_segments"]),
        shards=dict(found["shards"]),
        elsewhere=tuple(found["elsewhere"]),
        vectors=dict(found["vectors"]),
        engine=str(found["engine"]),
    )


def prove_sqlite(
    path: Path, sidecars: tuple[str, ...] = (), *, scratch_root: Path | None = None, timeout_s: float | None = None
) -> Rows:
    """`integrity_check` and `foreign_key_check` of a SQLite file, and the rows of its tables; it is read only.

    With `sidecars` (suffixes of files beside it that hold something): of a scratch copy, as its application finds it.
    Raises as `prove_snapshot`.
    """
    with scratch(_sizes(path, sidecars) if sidecars else 0, scratch_root) as made:
        file = _copied(path, sidecars, made) if sidecars else path
        return _rows(_ask("sqlite", file, made, timeout_s or _patience(_sizes(path, sidecars))))


def prove_duckdb(
    path: Path, sidecars: tuple[str, ...] = (), *, scratch_root: Path | None = None, timeout_s: float | None = None
) -> Rows:
    """Every row of a scratch copy of a DuckDB file, together with its `sidecars` (suffixes). Raises as above."""
    _require("duckdb")
    total = _sizes(path, sidecars)
    with scratch(2 * total, scratch_root) as made:
        return _rows(_ask("duckdb", _copied(path, sidecars, made), made, timeout_s or _patience(total)))


def read_duckdb(path: Path, *, scratch_root: Path | None = None, timeout_s: float | None = None) -> Rows:
    """Every row of a DuckDB file where it lies, with the log beside it, opened to be read. Raises as above."""
    _require("duckdb")
    with scratch(0, scratch_root) as made:
        return _rows(_ask("duckdb", path, made, timeout_s or _patience(path.stat().st_size)))


def _rows(found: dict[str, Any]) -> Rows:
    rows = {str(name): int(count) for name, count in found["rows"].items()}
    return Rows(rows, str(found["engine"]), tuple(map(str, found.get("orphans", ()))))


def _require(package: str) -> None:
    if why := missing(package):
        raise CannotProve(why, hint=INSTALL)


def _patience(size: int) -> float:
    return PATIENCE_S + size / BYTES_PER_S


def _sizes(path: Path, sidecars: tuple[str, ...]) -> int:
    return sum(path.with_name(path.name + suffix).stat().st_size for suffix in ("", *sidecars))


def _copied(path: Path, sidecars: tuple[str, ...], made: Scratch) -> Path:
    for suffix in ("", *sidecars):
        target = made.path / f"database{suffix}"
        shutil.copyfile(path.with_name(path.name + suffix), target)
        target.chmod(0o600)
    return made.path / "database"


# -- the process ---------------------------------------------------------------------------------


def _ask(task: str, path: Path, made: Scratch, timeout_s: float) -> dict[str, Any]:
    """Have the engine look at it, and wait; whatever happens, its process is gone afterwards."""
    words = [task, str(path), str(made.path), str(int(timeout_s) + 10)]
    answer, said = made.path / "answer", made.path / "said"
    held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # none comes between starting it and seeing to its end
    try:
        process = _started(words, answer, said, made)
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise CannotProve(f"the engine came to no end within {timeout_s:.0f} seconds and was stopped") from None
        finally:
            process.kill()
            process.wait()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    _check_ended(code, said, made)
    return _answer(answer, made)


def _started(words: list[str], answer: Path, said: Path, made: Scratch) -> subprocess.Popen[bytes]:
    with answer.open("xb") as out, said.open("xb") as err:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", "docmind_backup.engines", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=(made.fd,),
            start_new_session=True,
        )


def _check_ended(code: int, said: Path, made: Scratch) -> None:
    """A process that ended by itself has answered; one that died of the file says that the file is damaged."""
    if code == 0:
        return
    last = said.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
    why = f": {last[-1]}" if last else ""
    if -code in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS):
        _blame_room(made)
        raise DamageFound(f"the engine crashed on it ({signal.Signals(-code).name}){why}")
    name = signal.Signals(-code).name if code < 0 else f"exit {code}"
    raise CannotProve(f"the engine's process ended before it answered ({name}){why}")


def _answer(path: Path, made: Scratch) -> dict[str, Any]:
    if path.stat().st_size > MAX_ANSWER:
        raise CannotProve("the engine's answer is far too large")
    found: dict[str, Any] = json.loads(path.read_bytes())
    if "error" not in found:
        return found
    words = str(found["error"]).replace(str(made.path), "").strip().splitlines()
    _blame_room(made)
    what = "; ".join(words)[:1000]
    if found.get("damage"):
        raise DamageFound(f"the engine cannot read it: {what}")
    raise CannotProve(f"the engine could not be used on it: {what}")


def _blame_room(made: Scratch) -> None:
    """A full disk looks like damage to an engine."""
    try:
        check_room(made.path, -KEEP_FREE // 2)
    except BackupError as error:
        raise CannotProve(str(error), hint=error.hint) from error
