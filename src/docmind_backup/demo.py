"""Show the tool at work: a small sample environment in a temporary folder, and the real commands on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from docmind_backup.errors import Interrupted, UsageError
from docmind_backup.render import Face
from docmind_backup.sample import build_sample
from docmind_backup.settings import no_variables
from docmind_backup.starting import STOPPING

Command = Callable[[list[str]], int]
PROJECT = "docmind"
"""The sample's folder, in the one that was given."""


def run(face: Face, keep: Path | None, command: Command) -> None:
    """Make the sample (in `keep`, else in a folder that is removed) and run create, list, verify and restore-plan."""
    if keep is not None:
        if keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
            raise UsageError(f"{keep} is not an empty folder", hint="give --keep a new folder")
        _show(face, keep, command)
        face.say(f"the sample environment stays in {keep}")
        face.next(f"list -C {keep / PROJECT}")
        return
    with tempfile.TemporaryDirectory(prefix="docmind-demo-") as folder:
        _show(face, Path(folder), command)
    face.say("the sample environment is removed again; --keep DIR leaves one to play with")


def _show(face: Face, folder: Path, command: Command) -> None:
    face.say(f"making a small DocMind environment in {folder} ...")
    project = folder.resolve() / PROJECT
    sample = build_sample(project)
    assert sample.qdrant_path
    qdrant = ["--qdrant-path", str(sample.qdrant_path)]
    brief = {qdrant[1]: str(sample.qdrant_path.relative_to(project))}
    for words in (
        ["create", "--include-uploads", "--include-logs", *qdrant],
        ["list"],
        ["verify", "latest"],
        ["restore-plan", "latest", *qdrant],
    ):
        face.say("")
        face.say(f"$ docmind-backup {' '.join(brief.get(word, word) for word in words)}", style="bold")
        with no_variables():
            code = command([words[0], "-C", str(project), *words[1:]])
        if code - 128 in STOPPING:
            raise Interrupted(code - 128)
        if code:
            raise UsageError(f"`docmind-backup {words[0]}` ended with exit code {code}")
    face.say("")
