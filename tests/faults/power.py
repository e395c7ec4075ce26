"""The power is cut while a command runs on a disk, at random instants and right after its end."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults import invariants
from tests.faults.disk import SIZE, clone, make, mounted
from tests.faults.invariants import Looked, changed, live, look
from tests.faults.trials import PROJECT, Finding, Tool, Trial

WITHOUT_FLUSH = "from docmind_backup import durable as d; d.Flusher.flush = lambda *_: None; "
"""The tool broken on purpose, to see that a cut finds it."""


MOMENTS = {
    "before its own files": "from docmind_backup import executor as e; e.write_records = {end}; ",
    "before the record": "from docmind_backup import durable as d; d.write_new = {end}; ",
    "before the flush": "from docmind_backup import durable as d; d.Flusher.flush = {end}; ",
    "after the flush, before the rename": "from docmind_backup import catalog as c; c.Catalog.publish = {end}; ",
    "after the rename, before its flush": (
        "from docmind_backup import catalog as c; "
        "c.Catalog.publish = lambda self, staging, name: (staging.rename(self.root / name), ({end})()); "
    ),
    "after the flush of the rename": "from docmind_backup import operations as o; o._announce = {end}; ",
}
"""Of create: code that ends the process there."""
END = "lambda *_, **__: __import__('os')._exit(9)"


@dataclass(frozen=True, slots=True)
class Cut:
    image: Path
    moment: str
    ended: bool = False
    """The command had ended with exit 0."""


@dataclass(frozen=True, slots=True)
class Bed:
    """Where trials of one kind of file system are made: images on a place that can clone them."""

    host: Path
    kind: str
    broken: str = ""

    def base(self, trial: Trial) -> Path:
        """The disk before the command, cleanly unmounted."""
        image = self.host / f"{trial.name}-{self.kind}.img"
        make(image, self.kind, SIZE[self.kind])
        with self._tool(image) as tool:
            invariants.surroundings(tool.project.parent)
            trial.prepare(tool)
            if trial.before:
                tool.must(*trial.before)
        return image

    def cut(self, trial: Trial, base: Path, seed: int, cuts: int) -> Iterator[Finding]:
        """Run it once, cut at `cuts` random instants and right after its end; tell what did not hold."""
        chance = random.Random(seed)
        disk = clone(base, self.host / "disk.img")
        with self._tool(disk, self.broken) as tool:
            old = look(tool.project.parent, PROJECT)
            taken = self._taken(tool, trial, disk, chance, cuts)
            new = look(tool.project.parent, PROJECT)
        disk.unlink()
        for one in taken:
            problem = self._problem(trial, one, old, new)
            one.image.unlink()
            if problem:
                yield Finding(trial.name, f"power cut on {self.kind}, seed {seed}", one.moment, problem)

    def cut_at(self, trial: Trial, base: Path, moment: str) -> Iterator[Finding]:
        """Run it as far as one of MOMENTS and cut there."""
        disk = clone(base, self.host / "disk.img")
        with self._tool(disk, MOMENTS[moment].format(end=END)) as tool:
            old = look(tool.project.parent, PROJECT)
            argv, env = tool.argv(trial.command), invariants.environment(tool.project.parent)
            done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
            cut = Cut(clone(disk, self.host / "cut.img"), moment)
        disk.unlink()
        at_9 = done.returncode == 9
        problem = self._problem(trial, cut, old, old) if at_9 else f"exit {done.returncode}: {done.stderr}"
        cut.image.unlink()
        if problem:
            yield Finding(trial.name, f"power cut on {self.kind}", moment, problem)

    def _taken(self, tool: Tool, trial: Trial, disk: Path, chance: random.Random, cuts: int) -> list[Cut]:
        """The instants crowd where the writing is: a run begins with half a second of importing."""
        taken: list[Cut] = []
        argv, env = tool.argv(trial.command), invariants.environment(tool.project.parent)
        began = time.monotonic()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)
        for _ in range(cuts):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.expovariate(8) + 0.02)
            if process.poll() is not None:
                break
            moment = f"after {time.monotonic() - began:.3f} s"
            taken.append(Cut(clone(disk, self.host / f"cut-{len(taken)}.img"), moment))
        _, said = process.communicate()
        last = clone(disk, self.host / "cut-last.img")
        assert process.returncode == 0, said
        return [*taken, Cut(last, "right after exit 0", ended=True)]

    def _problem(self, trial: Trial, cut: Cut, old: Looked, new: Looked) -> str:
        """What is not ours is as it was, before the next run too; of a restore old or new, after its ways out."""
        try:
            with self._tool(cut.image) as tool:
                place = tool.project.parent
                if not trial.replaces and (problem := changed(old, look(place, PROJECT))):
                    return problem
                if (problem := trial.check(tool, cut.ended)) or not trial.replaces:
                    return problem
                old, new, now = (live(looked, PROJECT) for looked in (old, new, look(place, PROJECT)))
                return "" if now in (old, new) else f"old: {changed(old, now)}; new: {changed(new, now)}"
        except (AssertionError, OSError, ValueError) as error:
            return str(error)

    @contextmanager
    def _tool(self, image: Path, broken: str = "") -> Iterator[Tool]:
        with mounted(image, self.kind, self.host / "mnt") as at:
            yield Tool(at / PROJECT, broken)
