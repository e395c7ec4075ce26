"""The rows: what is measured against whom, how much is allowed, and what is asked of the result before it counts."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path

from tests.bench import peers, server, work
from tests.bench.measure import (
    BenchError,
    Command,
    Contender,
    Sample,
    Summary,
    interleave,
    own_peak_mb,
    run,
    summary,
)

FREE_SPACE = 1.1
"""A row begins only with so many times the bytes free that it writes."""
SETTLE_S = 60
RUNS = "runs-"
"""How the folder of one run of the bench is called, below --work."""


def _let_the_second_pass() -> None:
    """What is as young as the last backup is copied by rule, and nobody can set a ctime."""
    time.sleep(1.1)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every experiment is given."""

    work: Path
    out: Path
    """Everything a run of the bench writes; removed when all is done."""
    tmpfs: Path
    runs: int
    quick: bool

    def made(self, name: str) -> Path:
        return work.made(name, self.work, quick=self.quick)

    def folder(self, name: str, *, below: Path | None = None) -> Path:
        path = (below or self.out) / name
        path.mkdir(parents=True)
        return path


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    work: str
    against: str
    value: float | None
    """The ratio of the medians, or what `unit` says; None: skipped, `note` says why."""
    at_most: float | None = None
    reach: float | None = None
    unit: str = ""
    ours: Summary | None = None
    peer: Summary | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "skipped"
        if self.at_most is None:
            return "-"
        if self.value > self.at_most:
            return "**not met**"
        return "met" if self.reach is None or self.value > self.reach else "reached"


@dataclass(frozen=True, slots=True)
class Experiment:
    """Something that is measured as a whole; it gives one line or several."""

    name: str
    about: str
    measure: Callable[[Bench], list[Line]]
    large: bool = False
    """Only with --large, or by name."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What the issue asks for against one peer."""

    peer: str
    at_most: float | None = None
    reach: float | None = None


def ratios(what: str, taken: dict[str, tuple[Sample, ...]], bounds: Sequence[Bound]) -> list[Line]:
    """A line for each bound; a peer that did not take part is named."""
    mine, lines = summary(taken["ours"]), list[Line]()
    for bound in bounds:
        if bound.peer not in taken:
            lines.append(Line(what, bound.peer, None, bound.at_most, bound.reach, note="not installed"))
            continue
        theirs = summary(taken[bound.peer])
        ratio = mine.wall_s / theirs.wall_s
        lines.append(Line(what, bound.peer, ratio, bound.at_most, bound.reach, "", mine, theirs))
    return lines


def room_for(folder: Path, needed: int) -> None:
    """Where the disk is too small for all rows: what earlier rows wrote goes, and the file system gets its time.

    (ext4 refuses inodes that were deleted in the last half minute, and searches past them.)
    """
    earlier = [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    if _lacks(folder, needed) and folder.parent.name.startswith(RUNS) and earlier:
        print(f"  removing what earlier rows wrote, then {SETTLE_S} s of rest", file=sys.stderr, flush=True)
        for path in earlier:
            shutil.rmtree(path)
        os.sync()
        time.sleep(SETTLE_S)
    if _lacks(folder, needed):
        raise BenchError(f"{needed / 1e9:.0f} GB would be written to {folder}: not enough is free")


def _lacks(folder: Path, needed: int) -> bool:
    return shutil.disk_usage(folder).free < FREE_SPACE * needed


def size_of(top: Path) -> int:
    return sum((top / name).stat().st_size for name in peers.walk(top))


# -- first create --------------------------------------------------------------------------------

CP, RESTIC, BORG = "cp -a + syncfs", "restic", "borg lz4"


def first(bench: Bench) -> list[Line]:
    bounds = (Bound(CP, 0.6, 0.35), Bound(RESTIC, 0.4, 0.2), Bound(BORG, 0.6, 0.35))
    made = peers.FirstBackup(bench.made("mixed-2gb"), bench.folder("first"))
    return _first("first create of the 2 GB mixed tree, durable, hashed", made, bench.runs, bounds)


def first_others(bench: Bench) -> list[Line]:
    bounds = tuple(map(Bound, (CP, "rsync -a + syncfs", "rsnapshot + syncfs", "shutil.copytree + syncfs")))
    made = peers.FirstBackup(bench.made("mixed-740mb"), bench.folder("first-others"))
    return _first("first create of the 740 MB mixed tree (for information)", made, bench.runs, bounds)


def in_memory(bench: Bench) -> list[Line]:
    bounds = (Bound("cp -a + syncfs", 2.0, 1.5), Bound(RESTIC, 0.3, 0.2), Bound(BORG, 0.5, 0.35))
    out = bench.folder(f"docmind-bench-{os.getpid()}", below=bench.tmpfs)
    try:
        project = out / "project"
        room_for(out, size_of(bench.made("mixed-740mb") / "data") * (1 + 4 * bench.runs))
        shutil.copytree(bench.made("mixed-740mb"), project)
        made = peers.FirstBackup(project, bench.folder("runs", below=out))
        return _first("first create of 740 MB, source and destination in tmpfs", made, bench.runs, bounds)
    finally:
        shutil.rmtree(out)


def _first(what: str, made: peers.FirstBackup, runs: int, bounds: Sequence[Bound]) -> list[Line]:
    who: dict[str, Callable[[], Contender]] = {
        CP: made.cp,
        RESTIC: made.restic,
        BORG: made.borg,
        "rsync -a + syncfs": made.rsync,
        "rsnapshot + syncfs": made.rsnapshot,
        "shutil.copytree + syncfs": made.copytree,
    }
    present = [who[bound.peer]() for bound in bounds if bound.peer in (CP,) or _installed(bound.peer)]
    room_for(made.out, size_of(made.source) * runs * (1 + len(present)))
    return ratios(what, interleave([made.ours(), *present], runs), bounds)


def _installed(peer: str) -> bool:
    return peer.startswith("shutil") or peers.has(peer.split()[0])


# -- second create -------------------------------------------------------------------------------

LINK_DEST = "rsync -a --link-dest + syncfs"


@dataclass(frozen=True, slots=True)
class _Second:
    """A tree that changes between rounds, and each contender's chain of backups of it."""

    project: Path
    out: Path
    names: list[str]

    @property
    def source(self) -> Path:
        return self.project / "data" / "uploads"

    def start(self) -> None:
        """Everybody's first backup, not timed."""
        for command in (self._create(), self._first_rsync()):
            run(command)

    def next_round(self, number: int) -> None:
        """Another hundredth changes, and the clock's grain passes: a file changed within it is copied by rule."""
        work.change(self.source, self.names, number)
        _let_the_second_pass()

    def ours(self) -> Contender:
        return Contender("ours", lambda _: self._create(), check=self._check_ours)

    def rsync(self) -> Contender:
        script = 'rsync -a --link-dest "$1" -- "$2/" "$3/" && sync -f "$3"'

        def command(number: int) -> Command:
            return peers.shell(script, self._copy(number - 1), str(self.source), self._copy(number))

        def check(number: int) -> None:
            self._check_marks(Path(self._copy(number)), number)

        return Contender(LINK_DEST, command, check=check)

    def _create(self) -> Command:
        return peers.create(self.project, self.out / "ours")

    def _first_rsync(self) -> Command:
        return peers.shell('rsync -a -- "$1/" "$2/" && sync -f "$2"', str(self.source), self._copy(-1))

    def _copy(self, number: int) -> str:
        return str(self.out / f"rsync-{number + 1}")

    def _check_ours(self, number: int) -> None:
        backup = sorted((self.out / "ours").glob("backup_*"))[number + 1]
        peers.check_backup(backup, self.source, same=False)
        self._check_marks(backup / "data" / "uploads", number)

    def _check_marks(self, copy: Path, number: int) -> None:
        """The files that changed in this round hold what was written in it; those of the next do not yet."""
        peers.check_tree(copy, self.source, same=False)
        for name in work.changed(self.names, number):
            with (copy / name).open("rb") as file:
                if file.read(8) != work.mark_of(number):
                    raise BenchError(f"{copy / name} is not what the source was in round {number}")


def second_5k(bench: Bench) -> list[Line]:
    return _second(bench, "files-5k", "second create, 1 % changed, 5,000 files", Bound(LINK_DEST, 1.6, 1.0))


def second_100k(bench: Bench) -> list[Line]:
    return _second(bench, "files-100k", "second create, 1 % changed, 100,000 files", Bound(LINK_DEST, 0.6, 0.4))


def _second(bench: Bench, name: str, what: str, bound: Bound) -> list[Line]:
    if not peers.has("rsync"):
        return [Line(what, bound.peer, None, bound.at_most, bound.reach, note="not installed")]
    out = bench.folder(f"second-{name}")
    run(Command(("cp", "-a", str(bench.made(name)), str(out / "project"))))
    made = _Second(out / "project", out, work.files_of(out / "project" / "data" / "uploads"))
    _let_the_second_pass()
    made.start()
    taken = interleave([made.ours(), made.rsync()], bench.runs, before_round=made.next_round)
    return ratios(what, taken, (bound,))


# -- verify --------------------------------------------------------------------------------------


def verify(bench: Bench) -> list[Line]:
    project, out = bench.made("mixed-740mb"), bench.folder("verify")
    run(peers.create(project, out / "root"))
    backup = peers.one_backup(out / "root")
    peers.warm(backup)

    def intact(_: int) -> None:
        peers.check_backup(backup, project / "data" / "uploads")

    sums = Command(("sha256sum", "--quiet", "-c", "SHA256SUMS"), backup)
    mine = Contender("ours", lambda _: peers.ours("verify", "-q", backup), check=intact)
    taken = interleave([mine, Contender("sha256sum -c", lambda _: sums)], bench.runs)
    return ratios("verify, everything (740 MB)", taken, (Bound("sha256sum -c", 0.35, 0.27),))


# -- restore -------------------------------------------------------------------------------------


def restore(bench: Bench) -> list[Line]:
    project, out = bench.made("mixed-2gb"), bench.folder("restore")
    source = project / "data" / "uploads"
    room_for(out, size_of(source) * (1 + 2 * bench.runs))
    run(peers.create(project, out / "root"))
    backup = peers.one_backup(out / "root")

    def prepare(number: int) -> None:
        peers.warm(backup)
        (out / f"ours-{number}" / "data").mkdir(parents=True)
        (out / f"ours-{number}" / ".env").touch()

    def command(number: int) -> Command:
        return peers.ours("restore", backup, "-C", out / f"ours-{number}", "--only", "uploads", "--yes", "-q")

    def copy(number: int) -> Command:
        script = 'cp -a -- "$1" "$2" && sync -f "$2"'
        return peers.shell(script, str(backup / "data" / "uploads"), str(out / f"copy-{number}"))

    def check(number: int) -> None:
        peers.check_tree(out / f"ours-{number}" / "data" / "uploads", source)

    mine = Contender("ours", command, prepare, check)
    taken = interleave([mine, Contender(CP, copy, lambda _: peers.warm(backup))], bench.runs)
    return ratios("restore of the 2 GB mixed tree, verified and durable", taken, (Bound(CP, 1.0, 0.5),))


# -- download ------------------------------------------------------------------------------------


def download(bench: Bench) -> list[Line]:
    what, bound = "snapshot download of 2 GB over loopback, hashed and durable", Bound("curl -o + fsync", 0.9, 0.75)
    if not peers.has("curl"):
        return [Line(what, bound.peer, None, bound.at_most, bound.reach, note="not installed")]
    folder, out = bench.made("snapshot-2gb"), bench.folder("download")
    said = json.loads((folder / "snapshot.json").read_bytes())
    room_for(out, said["size"] * 2 * bench.runs)
    with server.serving(folder) as url:
        address = f"{url}/collections/{server.COLLECTION}/snapshots/always"

        def curl(number: int) -> Command:
            return peers.shell('curl -sSf -o "$2" "$1" && sync "$2"', address, str(out / f"curl-{number}"))

        def right(number: int) -> None:
            if _sha256(out / f"curl-{number}") != said["sha256"]:
                raise BenchError(f"curl-{number} is not the snapshot")

        def warm(_: int) -> None:
            peers.warm(folder)

        def fetched(number: int) -> None:
            _fetched(out / f"ours-{number}", said)

        mine = Contender("ours", lambda n: _fetch(folder, url, out / f"ours-{n}"), warm, fetched)
        taken = interleave([mine, Contender(bound.peer, curl, warm, right)], bench.runs)
    return ratios(what, taken, (bound,))


def _fetch(project: Path, url: str, dest: Path) -> Command:
    options = ("--only", "qdrant", "--collection", server.COLLECTION, "--no-prune", "-q", "--dest", dest)
    return peers.ours("create", "-C", project, *options, env={"DOCMIND_DATABASE__QDRANT_URL": url})


def _fetched(dest: Path, said: dict[str, object]) -> None:
    """The one snapshot is there, its bytes are those that were served. (No engine could open it: it is noise.)"""
    (stored,) = peers.one_backup(dest).rglob("*.snapshot")
    if (stored.stat().st_size, _sha256(stored)) != (said["size"], said["sha256"]):
        raise BenchError(f"{stored} is not the snapshot")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


# -- prune, and start-up -------------------------------------------------------------------------


def prune(bench: Bench) -> list[Line]:
    """Twice: deciding alone (a dry run), and a real one less `rm -rf` of equal folders."""
    catalog, out = bench.made("catalog-1000"), bench.folder("prune")
    keep = 5 if bench.quick else 30
    options = ("--keep-last", str(keep), "-q")
    backups = sorted(path.name for path in (catalog / "data" / "backups").glob("backup_*"))
    doomed = backups[: len(backups) - keep]

    def copy(number: int) -> None:
        for name in ("pruned", "removed"):
            shutil.copytree(catalog, out / f"{name}-{number}", copy_function=os.link)

    def pruned(number: int) -> None:
        left = sorted(path.name for path in (out / f"pruned-{number}" / "data" / "backups").glob("backup_*"))
        if left != backups[-keep:]:
            raise BenchError(f"{len(left)} backups are left instead of the newest {keep}")

    def real(number: int) -> Command:
        return peers.ours("prune", "-C", catalog, "--dest", out / f"pruned-{number}" / "data" / "backups", *options)

    def deleting(number: int) -> Command:
        return Command(("rm", "-rf", "--", *doomed), out / f"removed-{number}" / "data" / "backups")

    contenders = [
        Contender("ours", lambda _: peers.ours("prune", "-C", catalog, "-n", *options)),
        Contender("its own list", lambda _: peers.ours("list", "-C", catalog)),
        Contender("prune", real, check=pruned),
        Contender("rm -rf", deleting),
    ]
    for number in range(bench.runs):
        copy(number)
    taken = interleave(contenders, bench.runs)
    bound = Bound("its own list", 2.0, 1.2)
    lines = ratios("prune of 1,000 backups to 30: deciding (dry run)", taken, (bound,))
    return [*lines, _besides_deleting(taken, bound)]


def _besides_deleting(taken: dict[str, tuple[Sample, ...]], bound: Bound) -> Line:
    differences = [p.wall_s - r.wall_s for p, r in zip(taken["prune"], taken["rm -rf"], strict=True)]
    listed = summary(taken["its own list"])
    ratio = statistics.median(differences) / listed.wall_s
    what = "prune of 1,000 backups to 30, less `rm -rf` of equal folders"
    return Line(what, bound.peer, ratio, bound.at_most, bound.reach, "", summary(taken["prune"]), listed)


def start(bench: Bench) -> list[Line]:
    """Processes that end at once, so three times the runs; each is run once beforehand: bytecode is there."""
    catalog, base = bench.made("catalog-1000"), "python -c 'import typer'"
    as_json, plain = peers.ours("list", "--json", "-C", catalog), peers.ours("list", "-C", catalog)
    rows = (
        ("`--help`", peers.ours("--help"), Bound(base, 2.4, 2.0)),
        ("completion of an id", _completion(catalog), Bound(base, 4.0, 2.0)),
        (
            "`list --json` of 1,000 backups of 5,000 files",
            as_json,
            Bound(base, 5, 4),
        ),
        ("`list` of the same", plain, Bound(base, 8, 5)),
    )
    _check_start(bench, catalog, [command for _, command, _ in rows])
    typer = Command((sys.executable, "-c", "import typer"))
    contenders = [Contender(name, lambda _, c=command: c) for name, command, _ in rows]
    taken = interleave([*contenders, Contender(base, lambda _: typer)], 3 * bench.runs)
    return [line for name, _, bound in rows for line in ratios(name, {**taken, "ours": taken[name]}, (bound,))]


def _completion(catalog: Path) -> Command:
    """As bash asks it (tests/test_completion.py), for the start of an id."""
    words = f"docmind-backup show -C {catalog} 2024"
    asked = {
        "_DOCMIND_BACKUP_COMPLETE": "complete_bash",
        "COMP_WORDS": words.replace(" ", "\n"),
        "COMP_CWORD": str(words.count(" ")),
    }
    return peers.ours(env=asked)


def _check_start(bench: Bench, catalog: Path, commands: Sequence[Command]) -> None:
    out, expected = bench.folder("start"), len(list((catalog / "data" / "backups").glob("backup_*")))
    for number, command in enumerate(commands):
        run(command, stdout=out / str(number))
    texts = [(out / str(number)).read_text("utf-8") for number in range(len(commands))]
    found = {
        "help": "restore-plan" in texts[0],
        "completion": 0 < texts[1].count("2024") <= expected,
        "list --json": len(json.loads(texts[2])) == expected,
        "list": "2024" in texts[3],
    }
    if wrong := [name for name, right in found.items() if not right]:
        raise BenchError(f"not what was asked for: {', '.join(wrong)}")


# -- memory --------------------------------------------------------------------------------------


def memory_5k(bench: Bench) -> list[Line]:
    return [_memory(bench, "files-5k", "5,000 files", (150, 110), bench.runs)]


def memory_1m(bench: Bench) -> list[Line]:
    return [_memory(bench, "files-1m", "1,000,000 files", (400, 200), 1)]


def _memory(bench: Bench, name: str, what: str, bounds: tuple[float, float], runs: int) -> Line:
    """A first create and a second one with nothing changed; the larger of the two."""
    project, root = bench.made(name), bench.folder(f"memory-{name}") / "root"
    taken = [run(peers.create(project, root)) for _ in range(1 + runs)]
    peers.check_tree(peers.one_backup(root) / "data" / "uploads", project / "data" / "uploads")
    return _peak(f"peak memory of create: {what}", taken, bounds)


def _peak(what: str, taken: Sequence[Sample], bounds: tuple[float, float]) -> Line:
    peak = max(sample.peak_mb for sample in taken)
    note = f"the bench itself: {own_peak_mb():.0f} MB"
    return Line(what, "-", peak, *bounds, unit="MB", ours=summary(taken), note=note)


def memory_50g(bench: Bench) -> list[Line]:
    folder, out = bench.made("snapshot-50gb"), bench.folder("memory-snapshot")
    said = json.loads((folder / "snapshot.json").read_bytes())
    room_for(out, said["size"])
    with server.serving(folder) as url:
        taken = [run(_fetch(folder, url, out / "ours"))]
    _fetched(out / "ours", said)
    (stored,) = peers.one_backup(out / "ours").rglob("*.snapshot")
    line = _peak("peak memory of create: 50 GB snapshot (sparse)", taken, (150, 110))
    return [replace(line, note=f"{line.note}; it takes {stored.stat().st_blocks * 512 / 1e9:.1f} GB on the disk")]


# -- bytes read ----------------------------------------------------------------------------------

READS = "read,pread64,readv,preadv,preadv2,copy_file_range,sendfile,splice"
EXCEPTED = re.compile(
    r"/\.env$|/CURRENT$|/\.deployment-id$|/storage/[^/]+/manifest\.(jsonl|meta\.json|checksum)$|-(wal|journal)$|\.wal$"
)
"""What the issue lets a create with nothing changed read; and the header of a database:"""
HEADER = 4096
DATABASES = (".db", ".duckdb")


def reads(bench: Bench) -> list[Line]:
    what = "source bytes read by a create with nothing changed (beyond the excepted)"
    if not peers.has("strace"):
        return [Line(what, "strace", None, 0, note="not installed")]
    out = bench.folder("reads")
    project = out / "project"
    run(Command(("cp", "-a", str(bench.made("sample-5k")), str(project))))
    _let_the_second_pass()
    command = peers.ours("create", "-C", project, "--no-qdrant-snapshot", "--no-prune", "-q", "--dest", out / "root")
    run(command)
    trace = ("strace", "-f", "-yy", "-qq", "-s", "0", "-e", f"trace={READS},mmap", "-o", str(out / "trace"))
    run(Command((*trace, *command.argv)))
    peers.check_backup(peers.one_backup(out / "root"), project / "data" / "uploads")
    read = bytes_read(out / "trace", project)
    over = {path: size for path, size in read.items() if size > _allowed(path)}
    note = f"{sum(read.values()):,} bytes of {len(read)} excepted files"
    if over:
        note = ", ".join(f"{path}: {size:,}" for path, size in sorted(over.items())[:10])
    return [Line(what, "strace", sum(over.values()), 0, unit="bytes", note=note)]


def _allowed(path: str) -> float:
    if EXCEPTED.search(path):
        return float("inf")
    return HEADER if path.endswith(DATABASES) else 0


def bytes_read(trace: Path, project: Path) -> dict[str, int]:
    """By path, what calls got out of files below `project`; a mapped file counts with the length of the map."""
    found: dict[str, int] = {}
    for name, size in _calls(trace):
        if name.startswith(f"{project}/"):
            found[name] = found.get(name, 0) + size
    return {name: size for name, size in found.items() if size}


CALL = re.compile(r"(?:^|\s)(?P<call>[a-z0-9_]+)\((?P<rest>.*)$")
DESCRIPTOR = re.compile(r"\d+<(?P<path>/[^>]*)>")
UNFINISHED, RESUMED = " <unfinished ...>", re.compile(r"<\.\.\. \w+ resumed>")


def _calls(trace: Path) -> Iterator[tuple[str, int]]:
    """(path of the first descriptor, bytes) of each call that ended well."""
    begun: dict[str, str] = {}
    with trace.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            process, _, text = line.strip().partition(" ")
            if text.endswith(UNFINISHED):
                begun[process] = text.removesuffix(UNFINISHED)
                continue
            text = RESUMED.sub(lambda _, p=process: begun.pop(p, ""), text)
            call, path = CALL.search(text), DESCRIPTOR.search(text)
            result = text.rpartition(" = ")[2].split(" ")[0]
            if call and path:
                yield path["path"], _size(call["call"], call["rest"], result)


def _size(call: str, arguments: str, result: str) -> int:
    if call == "mmap":
        return int(arguments.split(", ")[1])
    return int(result) if result.isdecimal() else 0


# -- space ---------------------------------------------------------------------------------------


def space(bench: Bench) -> list[Line]:
    """What a second backup adds when a large file changed in place: where chunk stores win."""
    return [line for places in (1, 50) for line in _space(bench, places)]


def _space(bench: Bench, places: int) -> list[Line]:
    out = bench.folder(f"space-{places}")
    run(Command(("cp", "-a", str(bench.made("one-200mb")), str(out / "project"))))
    made = peers.FirstBackup(out / "project", out)
    contenders = [made.ours(), *(c() for p, c in ((RESTIC, made.restic), (BORG, made.borg)) if _installed(p))]
    before, added = dict[str, int](), dict[str, float]()
    for contender in contenders:
        contender.prepare(0)
        run(contender.command(0))
        before[contender.name] = _on_disk(out, contender.name)
    _let_the_second_pass()
    work.change_in_place(next(made.source.iterdir()), places=places)
    for contender in contenders:
        run(contender.command(0))
        contender.check(0)
        added[contender.name] = (_on_disk(out, contender.name) - before[contender.name]) / 1e6
    where = "one place" if places == 1 else f"{places} places"
    what = f"added on the disk by a second backup, 1 % of a 200 MB file changed in {where} (for information)"
    return [Line(what, name, size, unit="MB") for name, size in added.items()]


def _on_disk(out: Path, name: str) -> int:
    """Bytes that the folder takes; a file with several names counts once. restic's cache is not the repository."""
    folder = out / f"{name.split()[0]}-0"
    status = [(folder / path).lstat() for path in peers.walk(folder) if "cache" not in Path(path).parts]
    return 512 * sum({found.st_ino: found.st_blocks for found in status}.values())


EXPERIMENTS = (
    Experiment("first", "first create of 2 GB against cp, restic, borg", first),
    Experiment("tmpfs", "the same of 740 MB in tmpfs", in_memory),
    Experiment("second-5k", "1 % of 5,000 files changed, against rsync --link-dest", second_5k),
    Experiment("second-100k", "1 % of 100,000 files changed, against rsync --link-dest", second_100k),
    Experiment("verify", "verify against sha256sum -c", verify),
    Experiment("restore", "restore of 2 GB against cp", restore),
    Experiment("download", "a 2 GB snapshot over loopback, against curl", download),
    Experiment("start", "--help, completion, list against `import typer`", start),
    Experiment("memory-5k", "peak memory, 5,000 files", memory_5k),
    Experiment("reads", "bytes read when nothing changed, by strace", reads),
    Experiment("first-others", "first create of 740 MB against rsync, rsnapshot, shutil.copytree", first_others),
    Experiment("space", "what a second backup adds, against restic and borg", space),
    Experiment("memory-1m", "peak memory, 1,000,000 files", memory_1m, large=True),
    Experiment("memory-50g", "peak memory, a 50 GB sparse snapshot", memory_50g, large=True),
    Experiment("prune", "prune of 1,000 backups against list; the only one that deletes", prune),
)
"""In the order in which they run: what deletes comes last."""
