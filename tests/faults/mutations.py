"""The promises broken on purpose, one at a time; for each, tests that have to go red."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.trials import Finding

SOURCE = Path(__file__).parents[2] / "src"
PACKAGE = "docmind_backup"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of one module, and the tests that see it."""

    name: str
    invariant: int
    """Of docs/design.md."""
    module: str
    old: str
    """There exactly once."""
    new: str
    tests: str
    """Separated by blanks."""


MUTATIONS = (
    Mutation(
        "the flush of the file system is skipped",
        2,
        "durable.py",
        "elif syncfs(self._fd) != 0:",
        "elif False:",
        "test_power_cut.py",
    ),
    Mutation(
        "a backup is published before it is flushed",
        2,
        "executor.py",
        "            flusher.flush(staging)\n            final = run.catalog.publish(staging, "
        "name_of(record.id, complete=record.complete))\n",
        "            final = run.catalog.publish(staging, name_of(record.id, complete=record.complete))\n"
        "            flusher.flush(final)\n",
        "test_crash.py::test_what_could_not_be_flushed_is_not_published",
    ),
    Mutation(
        "a backup is published before its record is written",
        2,
        "executor.py",
        "            record = write_records(plan, results, staging, fingerprints=run.fingerprints(), "
        "finished_at=run.clock())\n",
        "            os.rename(staging, run.catalog.root / name_of(plan.id, complete=True))\n"
        "            staging = run.catalog.root / name_of(plan.id, complete=True)\n"
        "            record = write_records(plan, results, staging, fingerprints=run.fingerprints(), "
        "finished_at=run.clock())\n",
        "test_crash.py",
    ),
    Mutation(
        "the names in the root are not flushed after publishing",
        2,
        "catalog.py",
        "        staging.rename(final)\n        try:\n            durable.fsync_directory(self.root)\n",
        "        staging.rename(final)\n        try:\n            pass\n",
        "test_crash.py test_catalog.py test_power_cut.py",
    ),
    Mutation(
        "a link is followed instead of kept",
        9,
        "copying.py",
        "SOURCE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | ",
        "SOURCE_FLAGS = os.O_RDONLY | ",
        "test_capture.py",
    ),
    Mutation(
        "a folder that became a link is entered",
        9,
        "folders.py",
        "os.O_DIRECTORY | os.O_NOFOLLOW | ",
        "os.O_DIRECTORY | ",
        "test_folders.py",
    ),
    Mutation(
        "a thin backup evicts a full one",
        4,
        "core/rotator.py",
        "if other.covers(scope))",
        "if True or other.covers(scope))",
        "core/test_rotator.py test_prune.py",
    ),
    Mutation(
        "a damaged backup counts",
        4,
        "core/model.py",
        "return record.lacks_only_rebuildable and accepted and not self.damaged",
        "return record.lacks_only_rebuildable and accepted",
        "core/test_rotator.py test_verify.py",
    ),
    Mutation(
        "a held backup is judged like the others",
        4,
        "core/rotator.py",
        "    if backup.held is not None:\n",
        "    if backup.held is not None and not backup.held:\n",
        "core/test_rotator.py test_prune.py",
    ),
    Mutation(
        "a run that lacks something prunes",
        4,
        "operations.py",
        "return backup.counts and not any(",
        "return not any(",
        "test_prune.py",
    ),
    Mutation(
        "a backup is removed although somebody reads it",
        6,
        "catalog.py",
        "with reading(backup.directory, exclusive=True):",
        "with contextlib.nullcontext():",
        "test_prune.py test_catalog.py",
    ),
    Mutation(
        "a link in a discarded backup is followed",
        5,
        "catalog.py",
        "        remove_tree(path)\n",
        "        import shutil\n"
        "        for each in sorted(path.rglob('*'), reverse=True):\n"
        "            [shutil.rmtree(each.resolve()) if each.is_dir() else each.unlink(missing_ok=True)]\n"
        "        shutil.rmtree(path, ignore_errors=True)\n",
        "test_catalog.py test_prune.py",
    ),
    Mutation(
        "an altered stored file is shared again",
        2,
        "sharing.py",
        "        if not still_stored(held.fields, (found.st_ino, found.st_size, found.st_mtime_ns)):\n",
        "        if False:\n",
        "test_sharing.py test_sharing_hostile.py",
    ),
    Mutation(
        "a source is linked into a backup",
        1,
        "sharing.py",
        " or (found.st_dev, found.st_ino) == source:",
        ":",
        "test_sharing.py test_sharing_hostile.py",
    ),
    Mutation(
        "an inventory that is not the recorded one is believed",
        2,
        "sharing.py",
        "if _sha256(inventory) != backup.record.digests.get(fmt.INVENTORY):",
        "if False:",
        "test_sharing.py test_sharing_hostile.py",
    ),
    Mutation(
        "a path out of an inventory may lead outside",
        9,
        "core/format.py",
        "def contained(path: str) -> str:\n",
        "def contained(path: str) -> str:\n    return path\n\n\ndef _contained(path: str) -> str:\n",
        "core/test_format.py test_verify.py",
    ),
    Mutation(
        "the server's checksum is ignored",
        3,
        "collection.py",
        "if said.checksum and said.checksum != got.sha256:",
        "if False:",
        "test_qdrant_in_create.py",
    ),
    Mutation(
        "the size the server told is ignored",
        3,
        "collection.py",
        "if said.size != got.size:",
        "if False:",
        "test_qdrant_in_create.py",
    ),
    Mutation(
        "a snapshot on the server is not written down",
        2,
        "ledger.py",
        "        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)\n",
        "        return\n        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)\n",
        "test_crash.py::test_killed_while_talking_to_qdrant test_ledger.py",
    ),
    Mutation(
        "whatever has our snapshot's name is deleted",
        5,
        "ledger.py",
        "return (self.name, self.checksum, self.size) == (listed.name, listed.checksum, listed.size)",
        "return self.name == listed.name",
        "test_ledger.py test_qdrant_in_create.py",
    ),
    Mutation(
        "the backup folder may be read by others",
        8,
        "catalog.py",
        "        staging.mkdir(mode=0o700)\n",
        "        staging.mkdir(mode=0o755)\n",
        "test_create.py test_secrets.py test_catalog.py",
    ),
    Mutation(
        "an address beyond this machine needs no leave",
        10,
        "core/endpoint.py",
        "    if not any(_covers(entry, endpoint) for entry in allowlist):\n",
        "    if False:\n",
        "core/test_endpoint.py test_qdrant_in_create.py",
    ),
    Mutation(
        "a lack does not show in the exit code",
        11,
        "operations.py",
        "return 3 if omissions or refused or shrunk else 0",
        "return 3 if refused or shrunk else 0",
        "test_create.py test_qdrant_in_create.py",
    ),
    Mutation(
        "verify does not read what it vouches for",
        3,
        "core/verifier.py",
        "def _compare_file(entry: FileEntry, observed: Observed) -> Finding | None:\n",
        "def _compare_file(entry: FileEntry, observed: Observed) -> Finding | None:\n    return None\n\n\n"
        "def _compared(entry: FileEntry, observed: Observed) -> Finding | None:\n",
        "test_verify.py",
    ),
)


def tried(mutation: Mutation, folder: Path) -> Iterator[Finding]:
    """A finding when no test sees the broken code."""
    source = folder / "src"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    path = source / PACKAGE / mutation.module
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        yield Finding(
            "mutation", mutation.module, mutation.name, f"its place is there {text.count(mutation.old)} times"
        )
        return
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    tests = [f"tests/{name}" for name in mutation.tests.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", *tests]
    env = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(command, cwd=SOURCE.parent, env=env, capture_output=True, text=True, check=False)
    if "FAILED" not in done.stdout:
        yield Finding(
            "mutation", mutation.module, mutation.name, f"pytest ended with {done.returncode}: {done.stdout[-300:]}"
        )
