"""Build the seeded work: trees, catalogs, snapshots. Each is made once, in its own folder, by its own process.

`python -m tests.bench.work NAME FOLDER [--quick]` makes one; a file `made` in it, written last, says it is whole.
The process of its own keeps the bench small: a child's peak memory is never seen below its parent's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.bench.measure import plain_environment

MB = 1_000_000
CHUNK = 2**20
ROOT = Path(__file__).resolve().parents[2]
MARK = "made"
NOBODY = "http://127.0.0.1:1"

ENV = f"""\
DOCMIND_DATA_DIR=./data
DOCMIND_CACHE_DIR=./cache
DOCMIND_DATABASE__SQLITE_DB_PATH=docmind.db
DOCMIND_DATABASE__QDRANT_URL={NOBODY}
DOCMIND_DATABASE__QDRANT_COLLECTION=docmind_docs
DOCMIND_DATABASE__QDRANT_IMAGE_COLLECTION=docmind_images
"""
"""A first-generation environment: uploads are all it has."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Uploads: random bytes, sizes drawn evenly, a hundred small files to a folder."""

    large: int
    large_bytes: tuple[int, int]
    small: int
    small_bytes: tuple[int, int]
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Catalog:
    """Backups with records and inventories as the tool writes them; the data are one small file."""

    backups: int
    files: int
    """Lines of each inventory."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection snapshot: `size` bytes, the first `data` of them random, the rest zeros (a hole)."""

    size: int
    data: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A second-generation environment with databases and index snapshots, and uploads added to it."""

    uploads: Tree


Spec = Tree | Catalog | Snapshot | Sample

LARGE, SMALL = (5 * MB, 40 * MB), (1_000, 200_000)
WORK: Mapping[str, Spec] = {
    "mixed-2gb": Tree(53, LARGE, 8_000, SMALL),
    "mixed-740mb": Tree(20, LARGE, 3_000, SMALL),
    "files-5k": Tree(0, LARGE, 5_000, (1_000, 20_000)),
    "files-100k": Tree(0, LARGE, 100_000, (500, 500)),
    "files-1m": Tree(0, LARGE, 1_000_000, (10, 10)),
    "one-200mb": Tree(1, (200 * MB, 200 * MB), 0, SMALL),
    "sample-5k": Sample(Tree(0, LARGE, 5_000, (1_000, 20_000))),
    "catalog-1000": Catalog(1_000, 5_000),
    "snapshot-2gb": Snapshot(2_000 * MB, 2_000 * MB),
    "snapshot-50gb": Snapshot(50_000 * MB, 8 * MB),
}
FEW = (1_000, 20_000)
QUICK: Mapping[str, Spec] = {
    "mixed-2gb": Tree(4, (MB, 2 * MB), 100, FEW),
    "mixed-740mb": Tree(3, (MB, 2 * MB), 60, FEW),
    "files-5k": Tree(0, LARGE, 200, FEW),
    "files-100k": Tree(0, LARGE, 400, (500, 500)),
    "files-1m": Tree(0, LARGE, 1_000, (10, 10)),
    "one-200mb": Tree(1, (5 * MB, 5 * MB), 0, SMALL),
    "sample-5k": Sample(Tree(0, LARGE, 100, FEW)),
    "catalog-1000": Catalog(50, 20),
    "snapshot-2gb": Snapshot(5 * MB, 5 * MB),
    "snapshot-50gb": Snapshot(20 * MB, MB),
}


def made(name: str, work: Path, *, quick: bool) -> Path:
    """The folder with that work, which is made now unless it is there. Raises CalledProcessError."""
    spec = (QUICK if quick else WORK)[name]
    folder = work / "work" / f"{name}-{hashlib.sha256(repr(spec).encode()).hexdigest()[:8]}"
    if not (folder / MARK).exists():
        print(f"  making {name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "tests.bench.work", name, str(folder), *(["--quick"] if quick else [])]
        subprocess.run(command, check=True, cwd=ROOT, env=plain_environment())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Make one piece of the seeded work.")
    parser.add_argument("name", choices=WORK)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    subprocess.run(["rm", "-rf", "--", str(given.folder)], check=True)  # what a killed run left
    given.folder.mkdir(parents=True)
    build((QUICK if given.quick else WORK)[given.name], given.folder)
    (given.folder / MARK).touch()


def build(spec: Spec, folder: Path) -> None:
    match spec:
        case Tree():
            environment(folder)
            fill(folder / "data" / "uploads", spec)
        case Sample():
            _sample(folder, spec)
        case Catalog():
            _catalog(folder, spec)
        case Snapshot():
            _snapshot(folder, spec)


def environment(project: Path) -> None:
    (project / "data").mkdir(parents=True)
    (project / ".env").write_text(ENV, encoding="utf-8")


def fill(uploads: Path, tree: Tree) -> None:
    rng = random.Random(tree.seed)
    uploads.mkdir(parents=True, exist_ok=True)
    for number in range(tree.large):
        _write(uploads / f"large-{number:03}.pdf", rng, rng.randint(*tree.large_bytes))
    for number in range(tree.small):
        folder = uploads / f"folder-{number // 100:05}"
        if number % 100 == 0:
            folder.mkdir()
        _write(folder / f"file-{number:07}.txt", rng, rng.randint(*tree.small_bytes))


def _write(path: Path, rng: random.Random, size: int) -> None:
    with path.open("wb") as file:
        for piece in _pieces(size):
            file.write(rng.randbytes(piece))


def _pieces(size: int) -> Iterator[int]:
    for at in range(0, size, CHUNK):
        yield min(CHUNK, size - at)


def files_of(uploads: Path) -> list[str]:
    """Every regular file below, relative, in order."""
    found = [os.path.join(folder, name) for folder, _, names in os.walk(uploads) for name in names]
    return sorted(os.path.relpath(path, uploads) for path in found)


# -- changes -------------------------------------------------------------------------------------


def change(uploads: Path, names: list[str], number: int) -> None:
    """A hundredth of the files get other first bytes, the same size, other times: which ones `number` says."""
    for name in changed(names, number):
        with (uploads / name).open("r+b") as file:
            file.write(mark_of(number))


def changed(names: list[str], number: int) -> list[str]:
    return random.Random(1000 + number).sample(names, max(1, len(names) // 100))


def mark_of(number: int) -> bytes:
    return b"%08d" % number


def change_in_place(path: Path, *, places: int) -> None:
    """A hundredth of the file gets other bytes, in so many places drawn by a seed."""
    rng, size = random.Random(places), path.stat().st_size
    piece = size // 100 // places
    with path.open("r+b") as file:
        for _ in range(places):
            file.seek(rng.randrange(size - piece))
            file.write(rng.randbytes(piece))


# -- a second-generation environment -------------------------------------------------------------


def _sample(folder: Path, spec: Sample) -> None:
    from docmind_backup.sample import build_sample

    sample = build_sample(folder, embedded=False, qdrant_url=NOBODY)
    fill(sample.data_dir / "uploads", spec.uploads)


# -- catalogs ------------------------------------------------------------------------------------


def _catalog(folder: Path, spec: Catalog) -> None:
    """`folder/data/backups`: a real backup of one file, then copies whose records and inventories say more.

    Inventory, sums and manifest are the same in all of them and one file on the disk, up to 1,000 links each.
    """
    environment(folder)
    fill(folder / "data" / "uploads", Tree(0, LARGE, 1, (500, 500)))
    template, shared = _made_by_the_tool(folder), folder / "shared"
    digests = _shared_files(template, shared, spec.files)
    for number in range(spec.backups):
        _clone(template, shared, number, digests, spec)
    subprocess.run(["rm", "-rf", "--", str(template), str(folder / "template")], check=True)


def _made_by_the_tool(project: Path) -> Path:
    dest = project / "template"
    options = ["create", "-C", str(project), "--only", "uploads", "-q", "--no-prune", "--dest", str(dest)]
    subprocess.run([sys.executable, "-m", "docmind_backup", *options], check=True, stdout=subprocess.DEVNULL)
    return next(dest.glob("backup_*"))


def _shared_files(template: Path, shared: Path, files: int) -> dict[str, str]:
    """What an inventory of so many files and the two beside it look like; their digests."""
    from docmind_backup.core import format as fmt

    shared.mkdir()
    lines = (template / fmt.INVENTORY).read_bytes().splitlines()
    entries = [fmt.read_entry(line) for line in lines]
    pattern = next(entry for entry in entries if entry.path.endswith(".txt"))
    many = [replace(pattern, path=f"data/uploads/folder-{n // 100:05}/file-{n:07}.txt") for n in range(files)]
    sha256 = json.loads(fmt.entry_line(pattern))["sha256"]
    manifest = json.loads((template / fmt.MANIFEST).read_bytes())
    manifest["entries_of_the_bench"] = [{"path": e.path, "sha256": sha256, "size_bytes": 500} for e in many]
    contents = {
        fmt.INVENTORY: b"".join(map(fmt.entry_line, many)),
        fmt.SUMS: b"".join(fmt.sums_line(e.path, sha256) for e in many),
        fmt.MANIFEST: json.dumps(manifest, indent=2).encode(),
        fmt.README: (template / fmt.README).read_bytes(),
        "file-0000000.txt": next(template.rglob("*.txt")).read_bytes(),
    }
    for name, content in contents.items():
        (shared / name).write_bytes(content)
        (shared / name).chmod(0o400)
    own = (fmt.INVENTORY, fmt.SUMS, fmt.MANIFEST, fmt.README)
    return {name: hashlib.sha256(contents[name]).hexdigest() for name in own}


def _clone(template: Path, shared: Path, number: int, digests: Mapping[str, str], spec: Catalog) -> None:
    from docmind_backup.catalog import name_of
    from docmind_backup.core import format as fmt

    began = datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(hours=8 * number)
    was = fmt.read_record((template / fmt.RECORD).read_bytes())
    totals = replace(was.totals, files=spec.files, bytes=500 * spec.files, own_bytes=500)
    record = replace(
        was,
        id=f"{began:%Y%m%d_%H%M%S}_{number:012x}",
        sequence=number + 1,
        started_at=began,
        finished_at=began + timedelta(seconds=1),
        totals=totals,
        sources=tuple(replace(source, totals=totals) for source in was.sources),
        digests=digests,
    )
    backup = template.parents[1] / "data" / "backups" / name_of(record.id, complete=True)
    (backup / "data" / "uploads" / "folder-00000").mkdir(parents=True)
    for name in digests:
        os.link(shared / name, backup / name)
    os.link(shared / "file-0000000.txt", backup / "data" / "uploads" / "folder-00000" / "file-0000000.txt")
    (backup / fmt.RECORD).write_bytes(fmt.record_bytes(record))
    (backup / fmt.RECORD).chmod(0o400)


# -- snapshots -----------------------------------------------------------------------------------


def _snapshot(folder: Path, spec: Snapshot) -> None:
    """`body` (sparse where it ends in zeros) and `snapshot.json` with its size and sha256, and an environment."""
    environment(folder)
    rng, digest, zeros = random.Random(5), hashlib.sha256(), bytes(CHUNK)
    with (folder / "body").open("wb") as file:
        for piece in _pieces(spec.data):
            content = rng.randbytes(piece)
            digest.update(content)
            file.write(content)
        file.truncate(spec.size)
    for piece in _pieces(spec.size - spec.data):
        digest.update(memoryview(zeros)[:piece])
    described: dict[str, Any] = {"size": spec.size, "data": spec.data, "sha256": digest.hexdigest()}
    (folder / "snapshot.json").write_text(json.dumps(described), encoding="utf-8")


if __name__ == "__main__":
    main()
