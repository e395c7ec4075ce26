"""The commands: ours and the peers', each as its own manual would have it, and whether what they made is right."""

from __future__ import annotations

import filecmp
import json
import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.measure import BenchError, Command, Contender, plain_environment

SAMPLED = 200
"""Files compared byte by byte with the source."""
PROGRAMS = ("rsync", "rsnapshot", "restic", "borg", "curl", "strace", "sha256sum", "cp")
VERSION = {"restic": "version"}
"""Where it is not --version."""

COPY_TREE = """
import ctypes, os, shutil, sys
shutil.copytree(sys.argv[1], sys.argv[2], symlinks=True)
folder = os.open(sys.argv[2], os.O_RDONLY)
sys.exit(ctypes.CDLL(None).syncfs(folder))
"""


def has(program: str) -> bool:
    return shutil.which(program) is not None


def ours(*arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Command:
    return Command((sys.executable, "-m", "docmind_backup", *map(str, arguments)), cwd, env or {})


def answer(command: Command) -> Any:
    """The JSON document that our tool prints. Raises BenchError unless it exits with 0."""
    done = subprocess.run(
        command.argv, cwd=command.cwd, env=plain_environment(command.env), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"{' '.join(command.argv)}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


# -- what was made -------------------------------------------------------------------------------


def one_backup(dest: Path) -> Path:
    """The newest backup below `dest`."""
    return max(dest.glob("backup_*"), key=lambda path: path.name)


def check_backup(backup: Path, source: Path, *, same: bool = True) -> None:
    """Ours: verified in full, every file there; with `same` also compared with the source."""
    (result,) = answer(ours("verify", backup, "--json"))
    if (result["verdict"], result["level"]) != ("intact", "full"):
        raise BenchError(f"{backup}: {result['verdict']} ({result['level']})")
    check_tree(backup / "data" / "uploads", source, same=same)


def check_tree(copy: Path, source: Path, *, same: bool = True) -> None:
    """As many files as the source, and so many of them, drawn by a seed, with the same bytes."""
    if count(copy) != (expected := count(source)):
        raise BenchError(f"{copy} holds {count(copy)} files, the source {expected}")
    if not same:
        return
    for name in _drawn(source, expected):
        if not filecmp.cmp(source / name, copy / name, shallow=False):
            raise BenchError(f"{copy / name} is not what the source has")


def _drawn(source: Path, total: int) -> list[str]:
    """Names at places drawn by a seed; the names are not kept: there may be a million."""
    places = set(random.Random(9).sample(range(total), min(SAMPLED, total)))
    return [name for number, name in enumerate(walk(source)) if number in places]


def walk(top: Path) -> Iterator[str]:
    for folder, subfolders, names in os.walk(top):
        subfolders.sort()
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), top)


def count(top: Path) -> int:
    return sum(1 for _ in walk(top))


def said(expected: int, *command: str, env: dict[str, str]) -> None:
    """A listing of the peer's names so many regular files."""
    done = subprocess.run(command, env=plain_environment(env), capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    files = sum(line.startswith("-") or '"type":"file"' in line for line in lines)
    if done.returncode or files != expected:
        raise BenchError(f"{' '.join(command)}: exit {done.returncode}, {files} files instead of {expected}")


# -- a first backup of a tree --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FirstBackup:
    """Everybody's whole backup of the uploads of `project` into a folder of its own below `out`."""

    project: Path
    out: Path

    @property
    def source(self) -> Path:
        return self.project / "data" / "uploads"

    def ours(self) -> Contender:
        def command(number: int) -> Command:
            return create(self.project, self.out / f"ours-{number}")

        return Contender(
            "ours", command, self._warm, lambda n: check_backup(one_backup(self.out / f"ours-{n}"), self.source)
        )

    def cp(self) -> Contender:
        return self._copier("cp -a + syncfs", "cp", 'cp -a -- "$1" "$2" && sync -f "$2"')

    def rsync(self) -> Contender:
        return self._copier("rsync -a + syncfs", "rsync", 'rsync -a -- "$1/" "$2/" && sync -f "$2"')

    def copytree(self) -> Contender:
        def command(number: int) -> Command:
            return Command((sys.executable, "-c", COPY_TREE, str(self.source), str(self.out / f"copytree-{number}")))

        return Contender("shutil.copytree + syncfs", command, self._warm, self._checked("copytree"))

    def rsnapshot(self) -> Contender:
        def prepare(number: int) -> None:
            self._warm(number)
            root = self.out / f"rsnapshot-{number}"
            root.mkdir()
            rows = (
                ("config_version", "1.2"),
                ("snapshot_root", f"{root}/"),
                ("cmd_rsync", str(shutil.which("rsync"))),
                ("retain", "daily", "7"),
                ("verbose", "1"),
                ("backup", f"{self.source}/", "tree/"),
            )
            (root / "conf").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")

        def command(number: int) -> Command:
            root = str(self.out / f"rsnapshot-{number}")
            return shell('rsnapshot -c "$1/conf" daily && sync -f "$1"', root)

        def check(number: int) -> None:
            root = self.out / f"rsnapshot-{number}" / "daily.0" / "tree"
            check_tree(root / self.source.relative_to("/"), self.source)

        return Contender("rsnapshot + syncfs", command, prepare, check)

    def restic(self) -> Contender:
        def prepare(number: int) -> None:
            self._warm(number)
            quiet("restic", "init", env=self._restic(number))

        def command(number: int) -> Command:
            return Command(("restic", "backup", "-q", "."), self.source, self._restic(number))

        def check(number: int) -> None:
            said(count(self.source), "restic", "ls", "latest", "--json", env=self._restic(number))

        return Contender("restic", command, prepare, check)

    def borg(self) -> Contender:
        def repository(number: int) -> str:
            return str(self.out / f"borg-{number}" / "repository")

        def prepare(number: int) -> None:
            self._warm(number)
            quiet("borg", "init", "-e", "none", "--make-parent-dirs", repository(number), env=self._borg(number))

        def command(number: int) -> Command:
            argv = ("borg", "create", "--compression", "lz4", f"{repository(number)}::{{now:%H%M%S.%f}}", ".")
            return Command(argv, self.source, self._borg(number))

        def check(number: int) -> None:
            listing = ("borg", "list", "--last", "1", "--format", "{archive}{NL}", repository(number))
            env = plain_environment(self._borg(number))
            archive = subprocess.run(listing, env=env, capture_output=True, text=True, check=True).stdout.strip()
            where = f"{repository(number)}::{archive}"
            said(count(self.source), "borg", "list", "--format", "{mode}{NL}", where, env=self._borg(number))

        return Contender("borg lz4", command, prepare, check)

    # the number of a run is the folder's; the environment keeps caches and passwords in it

    def _restic(self, number: int) -> dict[str, str]:
        root = self.out / f"restic-{number}"
        return {
            "RESTIC_REPOSITORY": str(root / "repository"),
            "RESTIC_PASSWORD": "of a repository to be thrown away",
            "RESTIC_CACHE_DIR": str(root / "cache"),
        }

    def _borg(self, number: int) -> dict[str, str]:
        yes = "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"
        return {"BORG_BASE_DIR": str(self.out / f"borg-{number}"), yes: "yes"}

    def _copier(self, name: str, folder: str, script: str) -> Contender:
        def command(number: int) -> Command:
            return shell(script, str(self.source), str(self.out / f"{folder}-{number}"))

        return Contender(name, command, self._warm, self._checked(folder))

    def _checked(self, folder: str) -> Any:
        return lambda number: check_tree(self.out / f"{folder}-{number}", self.source)

    def _warm(self, _: int) -> None:
        warm(self.source)


def create(project: Path, dest: Path, *options: str) -> Command:
    return ours("create", "-C", project, "--only", "uploads", "-q", "--no-prune", "--dest", dest, *options)


def shell(script: str, *arguments: str) -> Command:
    return Command(("sh", "-c", script, "sh", *arguments))


def quiet(*command: str, env: dict[str, str]) -> None:
    """Something that is not timed."""
    subprocess.run(command, env=plain_environment(env), check=True, stdout=subprocess.DEVNULL)


def warm(source: Path) -> None:
    """Read everything once, so that nobody waits for the disk of the source."""
    buffer = bytearray(2**20)
    for name in walk(source):
        with (source / name).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


# -- who took part -------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """By program; absent ones say so."""
    own = subprocess.run(ours("--version").argv, env=plain_environment(), capture_output=True, text=True, check=True)
    found = {"docmind-backup": own.stdout.strip(), "Python": platform.python_version()}
    for name in PROGRAMS:
        found[name] = _version(name) if has(name) else "not installed: its rows are skipped"
    return found


def _version(program: str) -> str:
    option = VERSION.get(program, "--version")
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    first = ((done.stdout or done.stderr).strip().splitlines() or ["?"])[0]
    return first.partition(" compiled")[0].partition(" (x86")[0].strip()


def machine(folder: Path) -> str:
    """Kernel, cores, memory and the file system that `folder` is on."""
    system = subprocess.run(
        ["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=True
    ).stdout.strip()
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, {memory_gb:.0f} GB, {system}"
