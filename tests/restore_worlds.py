"""An environment with its server, restored through the command line: files and collections seen at once."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.environments import DocMindV1, DocMindV2, build_v1, build_v2
from tests.killing import Tree, look
from tests.returning_worlds import VECTORS, everything, fill, points
from tests.standin import StandIn

from docmind_backup.cli import main

CONTAINERS = ("data", "cache", "cache/ingestion", "data/analytics", "logs")
ALIAS = "docs-live"


@dataclass(frozen=True)
class Template:
    """An environment, its backup, and all that can be seen of both and of the server; made once, only copied."""

    top: Path
    env: DocMindV1 | DocMindV2
    tree: Tree
    server: dict[str, Any]

    @property
    def options(self) -> list[str]:
        return ["--include-uploads", "--include-logs"]


def make_template(top: Path, kind: str = "v2") -> Template:
    with StandIn() as source, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("DOCMIND_", "QDRANT_"))]:
            patch.delenv(name)
        env = build_v2(top / "docmind", source) if kind == "v2" else build_v1(top / "docmind", source)
        source.create_alias(ALIAS, env.text_collection)
        made = Template(top, env, look(top / "docmind", containers=CONTAINERS), everything(source))
        create = ["create", "-C", str(env.project), "--dest", str(top / "backups"), "-q", *made.options]
        assert main(create) == 0
        assert everything(source) == made.server, "a backup changed the server"
    return made


@dataclass(frozen=True)
class World:
    """A copy of the environment beside a server of its own."""

    template: Template
    standin: StandIn
    project: Path
    backups: Path

    @property
    def where(self) -> list[str]:
        return ["-C", str(self.project), "--dest", str(self.backups)]

    @property
    def text(self) -> str:
        return self.template.env.text_collection

    @property
    def image(self) -> str:
        return self.template.env.image_collection

    @property
    def small(self) -> list[str]:
        """The chats and one collection: a restore of both kinds with few calls."""
        return ["--only", "chat,qdrant", "--collection", self.image]

    def see(self) -> tuple[Tree, dict[str, Any]]:
        return look(self.project, containers=CONTAINERS), everything(self.standin)

    def journal(self) -> Path:
        return self.project / "data" / ".docmind-restore" / "journal.json"


def open_world(template: Template, folder: Path, standin: StandIn, *, inside: bool = False) -> World:
    project = folder / "docmind"
    backups = project / "data" / "backups" if inside else folder / "backups"
    shutil.copytree(template.top / "docmind", project, symlinks=True)
    shutil.copytree(template.top / "backups", backups, symlinks=True)
    lines = (project / ".env").read_text("utf-8").splitlines()
    told = [f"{line.partition('=')[0]}={standin.url}" if "QDRANT_URL" in line else line for line in lines]
    (project / ".env").write_text("\n".join(told) + "\n", encoding="utf-8")
    fill(standin)
    return World(template, standin, project, backups)


def wipe(world: World) -> None:
    """The disk died, and Qdrant's with it: only settings and backups are there."""
    data = world.project / "data"
    for path in (*world.project.iterdir(), *data.iterdir()):
        if path not in (world.project / ".env", data, world.backups):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if world.backups.parent != data:
        data.rmdir()


def live_on(world: World) -> None:
    """Since the backup: another file, another chat, other collections under the same names, with aliases."""
    (world.project / "data" / "uploads" / "since.pdf").write_bytes(b"%PDF since")
    with closing(sqlite3.connect(world.project / "data" / "chat.db")) as db, db:
        db.execute("CREATE TABLE since (at TEXT)")
    for name, number in ((world.text, 3), (world.image, 2)):
        metadata = {"docmind_owner": "before"}
        world.standin.create_collection(name, points(number, "old"), VECTORS, None, metadata, ["kind"])
    world.standin.create_alias(ALIAS, "other")
    world.standin.create_alias("gallery", world.image)


def restored_server(world: World, before: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """What has to be on the server once `names` came back: all else as before."""
    was = world.template.server
    collections = {**before["collections"], **{name: was["collections"][name] for name in names}}
    aliases = {alias: to for alias, to in was["aliases"].items() if to in names}
    return {
        "collections": dict(sorted(collections.items())),
        "aliases": dict(sorted({**before["aliases"], **aliases}.items())),
        "files": before["files"],
    }


def with_chats_of(tree: Tree, before: Tree) -> Tree:
    chats = {path: what for path, what in tree.items() if path.startswith("data/chat.db")}
    return {path: what for path, what in before.items() if not path.startswith("data/chat.db")} | chats
