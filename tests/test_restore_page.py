"""docs/restore.md: what it says about a restore by hand is run, word for word, on a wiped environment."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.catalogs import only_backup, record
from tests.conftest import Cli
from tests.environments import DocMindV2
from tests.restored import assert_restored
from tests.standin import StandIn

PAGE = Path(__file__).parent.parent / "docs" / "restore.md"
KEY = "it's_a_key"


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_restore_by_hand_does_what_it_says(
    cli: Cli, env: DocMindV2, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_API_KEY", KEY)
    server.api_key = KEY
    assert cli("create", "-C", env.project, "--dest", tmp_path / "b", "-q").code == 0
    backup, points = only_backup(tmp_path / "b"), server.points(env.text_collection)
    server.delete_collection(env.text_collection)
    (env.uploads / "new.pdf").write_bytes(b"since")
    env.chat_db.with_name("chat.db-wal").write_bytes(b"stale")

    done = subprocess.run(["bash", "-eu", _by_hand(env, backup, server.url)], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr
    assert_restored(
        backup,
        {
            "data/.deployment-id": env.data_dir / ".deployment-id",
            "data/storage": env.storage,
            "data/uploads": env.uploads,
            "data/artifacts": env.artifacts,
            "data/chat.db": env.chat_db,
            "cache/docmind.duckdb": env.cache_db,
        },
    )
    assert server.points(env.text_collection) == points
    assert server.state.aliases == {"docs": env.text_collection}
    assert not server.snapshots(env.text_collection)
    assert (env.project / "old" / "chat.db-wal").read_bytes() == b"stale"


def _by_hand(env: DocMindV2, backup: Path, url: str) -> Path:
    """All commands of that section in order, with this environment's values for the examples'."""
    qdrant = record(backup).qdrant
    assert qdrant
    (taken,) = [c for c in qdrant.collections if c.name == env.text_collection]
    values = {"B": backup, "U": url, "N": taken.name, "F": Path(taken.path).name, "S": taken.sha256}
    section = PAGE.read_text("utf-8").split("\n## By hand")[1].split("\n## ")[0]
    blocks = re.findall(r"```(\w*)\n(.*?)```", section, re.DOTALL)
    (modes,) = [text for language, text in blocks if language == "python"]
    (env.project / "modes.py").write_text(modes, encoding="utf-8")
    commands = "".join(text for language, text in blocks if not language)
    for name, value in values.items():
        commands, count = re.subn(rf"^{name}=.*$", f"{name}='{value}'", commands, flags=re.MULTILINE)
        assert count == 1, name
    script = env.project / "by hand.sh"
    script.write_text(f'cd "{env.project}"\nQDRANT_API_KEY="{KEY}"\n{commands}', encoding="utf-8")
    return script


def test_every_heading_that_the_page_links_to_is_there() -> None:
    text = PAGE.read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors
