"""Records, inventories and manifests that were tampered with: whatever they say, reading them ends in words.

Each case mutates one file of a small backup and lets everything that reads look at it; a share of them is given to the
commands, too. What must hold: no exception but the tool's own, nothing of the backup or beside it changed, and damage
called damage.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.catalogs import NOON, clone
from tests.faults.fuzz_commands import EVERY, Commands
from tests.faults.trials import PROJECT, Finding, Tool

from docmind_backup.catalog import Catalog
from docmind_backup.core import format as fmt
from docmind_backup.core.verifier import Verdict
from docmind_backup.errors import BackupError
from docmind_backup.looking import Look, show
from docmind_backup.sample import build_sample
from docmind_backup.verify import fingerprint, verify

READ = (fmt.RECORD, fmt.INVENTORY, fmt.MANIFEST, fmt.SUMS)
WORDS = (
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"Infinity", b'""', b"[]", b"{}", b"0x10", b"1_000", b"1.5"),
    *(b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\xef\xbb\xbf", b"\x00", b"\xff\xfe", b"\n", b"\r\n", b"/", b"\\"),
    *(b'"../../../etc/passwd"', b'"/etc/passwd"', b'"files/../x"', b'"."', b'".."', b'"a//b"'),
    *(b'"\\u0000"', b'"\\ud800"', b'"con\\n"', b'"path_b64"'),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        2**63,
        10**28,
        10**400,
        10**4299,
        1.5,
        float("inf"),
        "",
        "x",
        "../../etc",
        "/etc",
        "a\0b",
        "\ud800",
        "0" * 64,
    ),
    *([], {}, [[]], {"": None}),
)


def made(folder: Path) -> Path:
    """One small backup."""
    tool = Tool(folder / PROJECT)
    build_sample(tool.project, documents=2)
    tool.must("create")
    (backup,) = (tool.project / "data" / "backups").glob("backup_*")
    return backup


def cases(folder: Path, seeds: Sequence[int]) -> list[Finding]:
    """What broke, of a case for each seed."""
    folder.mkdir()
    backup = made(folder)
    fuzz = Fuzz(backup, Commands(backup, folder / PROJECT, clone(backup, 1)))
    return [finding for seed in seeds for finding in fuzz.case(seed)]


@dataclass(frozen=True, slots=True)
class Fuzz:
    backup: Path
    commands: Commands

    def case(self, seed: int) -> Iterator[Finding]:
        """Mutate, look, now and then give each command, put back."""
        chance = random.Random(seed)
        path = self.backup / chance.choice(READ)
        good = path.read_bytes()
        bad, forged = mutated(good, chance, path.name)
        _overwrite(path, bad)
        before = _names(self.backup.parent)
        try:
            problem = self._looked_at(may_pass=forged or bad == good)
            if not problem and _names(self.backup.parent) != before:
                problem = "something was made or removed"
            if not problem and seed % EVERY == 0:
                problem = self.commands.tried(self.backup.parents[3] / "restored")
        finally:
            _overwrite(path, good)
        if problem:
            yield Finding("fuzz", path.name, f"seed {seed}", problem)

    def _looked_at(self, *, may_pass: bool) -> str:
        catalog = Catalog(self.backup.parent)
        try:
            catalog.items()
            catalog.items(brief=True)
            fingerprint(self.backup)
            with suppress(BackupError):
                show(Look(catalog, lambda: NOON), str(self.backup))
            with suppress(BackupError):
                found = verify(self.backup)
                if not may_pass and found.verdict is Verdict.INTACT:
                    return "verified although it was changed"
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]
        return ""


def _names(root: Path) -> list[str]:
    return sorted(name for _, folders, files in os.walk(root) for name in (*folders, *files) if name != "briefs.json")


def _overwrite(path: Path, content: bytes) -> None:
    """As a new file: others may share the old one."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.chmod(0o400)
    new.replace(path)


# -- mutations -----------------------------------------------------------------------------------


def mutated(raw: bytes, chance: random.Random, name: str) -> tuple[bytes, bool]:
    """One to four changes of bytes; or, of a document, of one of its values.

    A record then gets its own digest made right again: a forgery that holds together may well pass (docs/manifest.md).
    """
    if chance.random() < 0.5:
        with suppress(ValueError):
            return _value_changed(raw, chance, name), name == fmt.RECORD
    for _ in range(chance.randint(1, 4)):
        raw = chance.choice(BYTES)(raw, chance)
    return raw, False


def _flipped(raw: bytes, chance: random.Random) -> bytes:
    if not raw:
        return b"\0"
    at = chance.randrange(len(raw))
    return raw[:at] + bytes((raw[at] ^ 1 << chance.randrange(8),)) + raw[at + 1 :]


def _cut(raw: bytes, chance: random.Random) -> bytes:
    return raw[: chance.randrange(len(raw) + 1)]


def _without(raw: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(raw) + 1)
    return raw[:start] + raw[start + chance.randrange(1, 40) :]


def _twice(raw: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(raw) + 1)
    return raw[: start + chance.randrange(1, 400)] + raw[start:]


def _with_word(raw: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(raw) + 1)
    return raw[:start] + chance.choice(WORDS) + raw[start + chance.choice((0, 0, 1, 5)) :]


def _line_moved(raw: bytes, chance: random.Random) -> bytes:
    lines = raw.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines[: chance.randint(0, len(lines))])


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flipped, _cut, _without, _twice, _with_word, _with_word, _line_moved,
)  # fmt: skip


def _value_changed(raw: bytes, chance: random.Random, name: str) -> bytes:
    """A value somewhere in a JSON document, or in one line of the inventory."""
    if name in (fmt.RECORD, fmt.MANIFEST):
        return _resealed(_changed(json.loads(raw), chance), name)
    lines = raw.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = _dumped(_changed(json.loads(lines[at]), chance))
    return b"\n".join(lines) + b"\n"


def _changed(document: Any, chance: random.Random) -> Any:
    nodes = list(_nodes(document))
    holder, key = chance.choice(nodes)
    if chance.random() < 0.15:
        del holder[key]
    else:
        holder[key] = chance.choice(VALUES)
    return document


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    for key, inner in pairs:
        yield value, key
        yield from _nodes(inner)


def _resealed(document: Any, name: str) -> bytes:
    """In the shape it is written in."""
    if name == fmt.RECORD and isinstance(document, dict):
        fields = {key: value for key, value in document.items() if key != "record_sha256"}
        document = {**fields, "record_sha256": fmt._self_digest(fields)}
    text = json.dumps(document, indent=2, ensure_ascii=False, sort_keys=name == fmt.MANIFEST)
    return (text + "\n").encode(errors="backslashreplace")


def _dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="backslashreplace")
