"""The quick way to the catalog leads where the settings lead, or nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docmind_backup.settings import load
from docmind_backup.whereabouts import catalog_root

PLACES = st.sampled_from(["", "x", "../y", "/tmp/z", "./a//b/../c", "~/w"])
VARIABLES = st.sampled_from(
    [
        "DOCMIND_BACKUP_ROOT",
        "docmind_backup_root",
        "DOCMIND_DATA_DIR",
        "Docmind_Data_Dir",
        "DOCMIND_CACHE_DIR",
        "DOCMIND_DATABASE__QDRANT_URL",
        "DOCMIND_CONFIG__ENV_MASK_KEYS",
        "OTHER",
    ]
)
FILES = st.sampled_from(
    [
        (),
        (".env", "DOCMIND_DATA_DIR=elsewhere"),
        (".env", "docmind_backup_root = there"),
        (".env", 'export DOCMIND_BACKUP_ROOT="quoted # there"  # and why\nDOCMIND_BACKUP_KEEP_LAST=3'),
        (".env", "HERE=/here\nDOCMIND_DATA_DIR=${HERE}/d\nDOCMIND_DATA_DIR=${HERE}/later"),
        (".env", "DOCMIND_DATA_DIR=\nnot a line"),
        (".env", "DOCMIND_CONFIG__DOTENV_PRIORITY=dotenv_first"),
        (".env", "DOCMIND_LOG_FILE=a.log"),
        ("docmind-backup.toml", 'root = "from-toml"'),
        ("pyproject.toml", '[tool.docmind-backup]\nroot = "from-pyproject"'),
        ("pyproject.toml", '[project]\nname = "docmind"'),
    ]
)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DOCMIND"):
            monkeypatch.delenv(name)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(st.lists(FILES, max_size=2), st.dictionaries(VARIABLES, PLACES, max_size=3), st.none() | PLACES)
def test_it_leads_where_the_settings_lead(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, ...]], variables: dict[str, str], flag: str | None
) -> None:
    if len({name.upper() for name in variables}) < len(variables):
        return  # which of two spellings counts is the settings' secret
    project = tmp_path_factory.mktemp("project")
    for name, text in filter(None, files):
        (project / name).write_text(text)
    root = Path(os.path.abspath(flag)) if flag else None
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        found = catalog_root(project, root)

        assert found in (None, load(project, {"root": root}).root)


@pytest.mark.parametrize(
    ("variables", "root"),
    [
        ({}, "data/backups"),
        ({"DOCMIND_DATA_DIR": "d"}, "d/backups"),
        ({"docmind_data_dir": "../d"}, "../d/backups"),
        ({"DOCMIND_DATA_DIR": "d", "DOCMIND_BACKUP_ROOT": "r"}, "r"),
        ({"DOCMIND_BACKUP_ROOT": ""}, "data/backups"),
    ],
)
def test_it_finds_what_is_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], root: str
) -> None:
    (tmp_path / ".env").write_text("DOCMIND_DATABASE__QDRANT_URL=http://localhost:6333\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert catalog_root(tmp_path, None) == Path(os.path.normpath(tmp_path / root))
    assert catalog_root(tmp_path, tmp_path / "given") == tmp_path / "given"


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("DOCMIND_DATA_DIR=./d", "d/backups"),
        ("docmind_backup_root='r # s'", "r # s"),
        ("DOCMIND_BACKUP_KEEP_LAST=3", "data/backups"),
        ("DOCMIND_DATA_DIR=d\nDOCMIND_BACKUP_ROOT=r", "r"),
    ],
)
def test_it_reads_dotenv_and_the_environment_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, root: str
) -> None:
    (tmp_path / ".env").write_text(text)

    assert catalog_root(tmp_path, None) == tmp_path / root

    monkeypatch.setenv("DOCMIND_BACKUP_ROOT", "of-the-environment")
    assert catalog_root(tmp_path, None) == tmp_path / "of-the-environment"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "DOCMIND_CONFIG__DOTENV_PRIORITY=dotenv_first"),
        (".env", "#" * (1 << 20) + "\nDOCMIND_DATA_DIR=x"),
        (".env", "\udcff"),
        ("docmind-backup.toml", ""),
        ("pyproject.toml", "[tool.docmind-backup]"),
    ],
)
def test_it_says_nothing_where_only_the_settings_can_tell(tmp_path: Path, name: str, text: str) -> None:
    assert catalog_root(tmp_path, None)
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))

    assert catalog_root(tmp_path, None) is None


@pytest.mark.parametrize("name", [".env", "pyproject.toml"])
def test_it_does_not_wait_for_a_pipe(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)

    assert catalog_root(tmp_path, None) is None


def test_it_says_nothing_where_docmind_reads_its_variables_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("docmind_config__env_mask_keys", "DOCMIND_DATA_DIR")

    assert catalog_root(tmp_path, None) is None


def test_it_says_nothing_of_a_project_that_is_not_there(tmp_path: Path) -> None:
    assert catalog_root(tmp_path / "gone", None) is None
