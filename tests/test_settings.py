"""Settings: DocMind's names and rules, who wins over whom, and what is said when one is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Cli
from tests.environments import build_v2

from docmind_backup.core.rotator import RetentionPolicy
from docmind_backup.errors import UsageError
from docmind_backup.settings import load

SECRET = "hunter2-not-to-be-seen"
TOML = "docmind-backup.toml"
Set = Callable[..., None]

DOCMIND = {
    "DOCMIND_DATA_DIR": "data",
    "DOCMIND_CACHE__DIR": "cache",
    "DOCMIND_CACHE__FILENAME": "docmind.duckdb",
    "DOCMIND_CACHE_DIR": "cache",
    "DOCMIND_CHAT__SQLITE_PATH": "chat.db",
    "DOCMIND_DATABASE__QDRANT_URL": "http://localhost:6333",
    "DOCMIND_DATABASE__QDRANT_API_KEY": "(empty)",
    "DOCMIND_DATABASE__QDRANT_COLLECTION": "docmind_docs",
    "DOCMIND_DATABASE__QDRANT_IMAGE_COLLECTION": "docmind_images",
    "DOCMIND_DATABASE__QDRANT_TIMEOUT": "60",
    "DOCMIND_DATABASE__SQLITE_DB_PATH": "docmind.db",
    "DOCMIND_DATABASE__VECTOR_STORE_TYPE": "qdrant",
    "DOCMIND_AGENTS__DECISION_TIMEOUT": "200",
    "DOCMIND_ARTIFACTS__DIR": "(unset)",
    "DOCMIND_ANALYTICS_ENABLED": "False",
    "DOCMIND_ANALYTICS_DB_PATH": "(unset)",
    "DOCMIND_SEMANTIC_CACHE__ENABLED": "False",
    "DOCMIND_SEMANTIC_CACHE__PROVIDER": "qdrant",
    "DOCMIND_SEMANTIC_CACHE__COLLECTION_NAME": "docmind_semcache",
    "DOCMIND_SECURITY__ALLOW_REMOTE_ENDPOINTS": "False",
    "DOCMIND_SECURITY__ENDPOINT_ALLOWLIST": "http://localhost, https://localhost, http://127.0.0.1",
    "DOCMIND_TELEMETRY__JSONL_PATH": "logs/telemetry.jsonl",
    "DOCMIND_HASHING__HMAC_SECRET": "(empty)",
    "DOCMIND_LOG_FILE": "logs/docmind.log",
    "DOCMIND_IMG_AES_KEY_BASE64": "(empty)",
    "DOCMIND_IMG_KID": "(empty)",
    "DOCMIND_BACKUP_ENABLED": "(unset)",
    "DOCMIND_BACKUP_KEEP_LAST": "7",
}
"""DocMind's own names and defaults, as its settings have them."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "docmind"
    folder.mkdir()
    return folder


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Set:
    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def dotenv(project: Path, **values: str) -> None:
    (project / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


def shown(cli: Cli, project: Path) -> dict[str, tuple[str, str]]:
    """Name to (value, origin), as `show-config --json` has it."""
    done = cli("show-config", "-C", project, "--json")
    assert done.code == 0, done.err
    return {row["name"]: (row["value"], row["origin"]) for row in done.json()}


# -- names and defaults --------------------------------------------------------------------------


def test_docminds_settings_have_docminds_names_and_defaults(cli: Cli, project: Path) -> None:
    rows = shown(cli, project)

    assert {name: rows[name] for name in DOCMIND} == {name: (value, "default") for name, value in DOCMIND.items()}
    assert {origin for _, origin in rows.values()} == {"default", "resolved"}
    assert rows["(backups are in)"] == (str(project / "data" / "backups"), "resolved")


def test_a_group_takes_each_of_its_settings_from_where_it_was_set(cli: Cli, project: Path, variables: Set) -> None:
    dotenv(project, DOCMIND_DATABASE__QDRANT_TIMEOUT="90", DOCMIND_DATABASE__QDRANT_URL="http://localhost:1")
    variables(DOCMIND_DATABASE__QDRANT_URL="http://localhost:2")

    rows = shown(cli, project)

    assert rows["DOCMIND_DATABASE__QDRANT_URL"] == ("http://localhost:2", "environment")
    assert rows["DOCMIND_DATABASE__QDRANT_TIMEOUT"] == ("90", ".env")
    assert rows["DOCMIND_DATABASE__QDRANT_COLLECTION"] == ("docmind_docs", "default")


def test_a_whole_group_may_be_one_json_object(cli: Cli, project: Path, variables: Set) -> None:
    variables(DOCMIND_CACHE='{"dir": "elsewhere"}')

    assert shown(cli, project)["DOCMIND_CACHE__DIR"] == ("elsewhere", "environment")


def test_names_may_be_written_in_any_case(cli: Cli, project: Path, variables: Set, monkeypatch: Any) -> None:
    dotenv(project, docmind_database__qdrant_collection="small", Docmind_Backup_Keep_Daily="3")
    variables(docmind_data_dir="lower")

    rows = shown(cli, project)

    assert rows["DOCMIND_DATA_DIR"] == ("lower", "environment")
    assert rows["DOCMIND_DATABASE__QDRANT_COLLECTION"] == ("small", ".env")
    assert rows["DOCMIND_BACKUP_KEEP_DAILY"] == ("3", ".env")


@pytest.mark.parametrize("written", ['["http://a", "http://b"]', "http://a,http://b", "http://a, http://b"])
def test_a_list_is_json_or_words_with_commas(project: Path, variables: Set, written: str) -> None:
    variables(DOCMIND_SECURITY__ENDPOINT_ALLOWLIST=written, DOCMIND_BACKUP_COLLECTIONS=written)

    loaded = load(project, {})

    assert loaded.environment.endpoint_allowlist == ("http://a", "http://b")
    assert loaded.choices.collections == ("http://a", "http://b")


def test_empty_variables_are_as_good_as_none(project: Path, cli: Cli, variables: Set) -> None:
    names = ("DOCMIND_DATA_DIR", "DOCMIND_DATABASE__QDRANT_URL", "DOCMIND_BACKUP_KEEP_LAST", "DOCMIND_BACKUP_ROOT")
    dotenv(project, **dict.fromkeys(names, ""))
    variables(**dict.fromkeys(names, ""))

    rows = shown(cli, project)

    assert {rows[name][1] for name in names} == {"default"}


# -- who wins over whom --------------------------------------------------------------------------

PRECEDENCE = ["flag", "environment", ".env", TOML, "default"]


@pytest.mark.parametrize("missing", range(5), ids=PRECEDENCE)
def test_flag_over_environment_over_dotenv_over_toml_over_default(
    cli: Cli, project: Path, variables: Set, missing: int
) -> None:
    """The first `missing` sources say nothing: the next one wins."""
    flags = {"keep_daily": 4} if missing < 1 else {}
    if missing < 2:
        variables(DOCMIND_BACKUP_KEEP_DAILY="3")
    if missing < 3:
        dotenv(project, DOCMIND_BACKUP_KEEP_DAILY="2")
    if missing < 4:
        (project / TOML).write_text("keep_daily = 1\n")
    expected = (str(4 - missing), PRECEDENCE[missing])

    (row,) = [s for s in load(project, flags).values if s.name == "DOCMIND_BACKUP_KEEP_DAILY"]

    assert (row.value, row.origin) == expected
    assert flags or shown(cli, project)["DOCMIND_BACKUP_KEEP_DAILY"] == expected


@pytest.mark.parametrize("told_in", ["environment", ".env"])
def test_docmind_may_be_told_that_dotenv_comes_first_but_for_security(
    cli: Cli, project: Path, variables: Set, told_in: str
) -> None:
    first = {"DOCMIND_CONFIG__DOTENV_PRIORITY": "dotenv_first"}
    in_file = {
        "DOCMIND_DATA_DIR": "file",
        "DOCMIND_DATABASE__QDRANT_URL": "http://localhost:1",
        "DOCMIND_SECURITY__ALLOW_REMOTE_ENDPOINTS": "true",
    }
    dotenv(project, **in_file, **(first if told_in == ".env" else {}))
    variables(
        DOCMIND_DATA_DIR="shell",
        DOCMIND_DATABASE__QDRANT_URL="http://localhost:2",
        DOCMIND_DATABASE__QDRANT_TIMEOUT="90",
        DOCMIND_SECURITY__ALLOW_REMOTE_ENDPOINTS="false",
        **(first if told_in == "environment" else {}),
    )

    rows = shown(cli, project)

    assert rows["DOCMIND_DATA_DIR"] == ("file", ".env")
    assert rows["DOCMIND_DATABASE__QDRANT_URL"] == ("http://localhost:1", ".env")
    assert rows["DOCMIND_DATABASE__QDRANT_TIMEOUT"] == ("90", "environment")
    assert rows["DOCMIND_SECURITY__ALLOW_REMOTE_ENDPOINTS"] == ("False", "environment")


@pytest.mark.parametrize(
    "masked",
    ["DOCMIND_DATA_DIR,DOCMIND_DATABASE__QDRANT_URL", '["DOCMIND_DATA_DIR", "DOCMIND_DATABASE__QDRANT_URL"]'],
)
def test_docmind_may_be_told_to_ignore_variables(cli: Cli, project: Path, variables: Set, masked: str) -> None:
    dotenv(project, DOCMIND_DATA_DIR="file")
    variables(
        DOCMIND_CONFIG__ENV_MASK_KEYS=masked,
        DOCMIND_DATA_DIR="shell",
        DOCMIND_DATABASE__QDRANT_URL="http://localhost:2",
        DOCMIND_DATABASE__QDRANT_TIMEOUT="90",
    )

    rows = shown(cli, project)

    assert rows["DOCMIND_DATA_DIR"] == ("file", ".env")
    assert rows["DOCMIND_DATABASE__QDRANT_URL"] == ("http://localhost:6333", "default")
    assert rows["DOCMIND_DATABASE__QDRANT_TIMEOUT"] == ("90", "environment")


def test_docmind_may_be_told_to_read_foreign_variables(cli: Cli, project: Path, variables: Set) -> None:
    variables(
        DOCMIND_CONFIG__ENV_OVERLAY="VECTORS:database.qdrant_url,STATE_DIRECTORY:data_dir,NOT_THERE:log_file",
        VECTORS="http://localhost:3",
        STATE_DIRECTORY="state",
    )

    rows = shown(cli, project)

    assert rows["DOCMIND_DATABASE__QDRANT_URL"] == ("http://localhost:3", "overlay")
    assert rows["DOCMIND_DATA_DIR"] == ("state", "overlay")
    assert rows["DOCMIND_LOG_FILE"] == ("logs/docmind.log", "default")


def test_an_overlay_that_contradicts_itself_is_no_traceback(cli: Cli, project: Path, variables: Set) -> None:
    variables(DOCMIND_CONFIG__ENV_OVERLAY="ONE:database,TWO:database.qdrant_url", ONE="x", TWO="http://localhost:3")

    assert shown(cli, project)["DOCMIND_DATABASE__QDRANT_URL"] == ("http://localhost:3", "overlay")


# -- where things are ----------------------------------------------------------------------------

PATHS = [
    ({}, "data_dir", "data"),
    ({"DOCMIND_DATA_DIR": "../shared/data"}, "data_dir", "../shared/data"),
    ({}, "chat_db", "data/chat.db"),
    ({"DOCMIND_CHAT__SQLITE_PATH": "talk.db"}, "chat_db", "data/talk.db"),
    ({"DOCMIND_DATA_DIR": "lake", "DOCMIND_CHAT__SQLITE_PATH": "talk.db"}, "chat_db", "lake/talk.db"),
    ({"DOCMIND_CHAT__SQLITE_PATH": "./data/chat.db"}, "chat_db", "data/chat.db"),
    ({"DOCMIND_CHAT__SQLITE_PATH": "chats/chat.db"}, "chat_db", "chats/chat.db"),
    ({}, "sqlite_db_v1", "data/docmind.db"),
    ({"DOCMIND_DATABASE__SQLITE_DB_PATH": "db/docmind.db"}, "sqlite_db_v1", "db/docmind.db"),
    ({}, "cache_db", "cache/ingestion/docmind.duckdb"),
    ({"DOCMIND_CACHE__DIR": "c", "DOCMIND_CACHE__FILENAME": "x.duckdb"}, "cache_db", "c/ingestion/x.duckdb"),
    ({"DOCMIND_CACHE_DIR": "old"}, "cache_db", "cache/ingestion/docmind.duckdb"),
    ({}, "cache_db_v1", "cache/docmind.duckdb"),
    ({"DOCMIND_CACHE_DIR": "old"}, "cache_db_v1", "old/docmind.duckdb"),
    ({"DOCMIND_CACHE__DIR": "c"}, "cache_db_v1", "cache/docmind.duckdb"),
    ({}, "artifacts", "data/artifacts"),
    ({"DOCMIND_ARTIFACTS__DIR": "pictures"}, "artifacts", "pictures"),
    ({}, "log_file", "logs/docmind.log"),
    ({"DOCMIND_TELEMETRY__JSONL_PATH": "t/events.jsonl"}, "telemetry", "t/events.jsonl"),
    ({}, "analytics_db", "data/analytics/analytics.duckdb"),
    ({"DOCMIND_ANALYTICS_DB_PATH": "data/analytics/other.duckdb"}, "analytics_db", "data/analytics/other.duckdb"),
    ({"DOCMIND_ANALYTICS_DB_PATH": "data/deep/er/other.db"}, "analytics_db", "data/deep/er/other.db"),
]


@pytest.mark.parametrize(("given", "attribute", "expected"), PATHS, ids=[f"{p[1]} {p[2]}" for p in PATHS])
def test_a_path_follows_docminds_rule(
    project: Path, variables: Set, given: dict[str, str], attribute: str, expected: str
) -> None:
    variables(**given)

    loaded = load(project, {})

    assert getattr(loaded.environment, attribute) == (project / expected).resolve()
    assert loaded.environment.notes == ()


@pytest.mark.parametrize(
    "override", ["data/other.duckdb", "elsewhere/other.duckdb", "data/analytics/other.parquet", "data/../x/other.db"]
)
def test_an_analytics_path_that_docmind_ignores_is_ignored_and_said(
    project: Path, variables: Set, override: str
) -> None:
    variables(DOCMIND_ANALYTICS_DB_PATH=override)

    environment = load(project, {}).environment

    assert environment.analytics_db == project / "data/analytics/analytics.duckdb"
    (note,) = environment.notes
    assert override in note


def test_absolute_paths_stay(project: Path, tmp_path: Path, variables: Set) -> None:
    variables(DOCMIND_DATA_DIR=str(tmp_path / "data"), DOCMIND_CHAT__SQLITE_PATH=str(tmp_path / "chat.db"))

    environment = load(project, {}).environment

    assert (environment.data_dir, environment.chat_db) == (tmp_path / "data", tmp_path / "chat.db")


@pytest.mark.parametrize("where", [".", "..", "elsewhere"])
def test_settings_are_relative_to_the_project_wherever_one_stands(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (project / TOML).write_text('root = "../backups"\nqdrant-path = "qdrant"\nevents = "events.jsonl"\n')
    monkeypatch.chdir(project / where if where == "." else tmp_path / where.strip("."))

    loaded = load(Path({".": ".", "..": "docmind", "elsewhere": "../docmind"}[where]), {})

    assert loaded.environment.project == project
    assert loaded.environment.data_dir == project / "data"
    assert loaded.root == tmp_path / "backups"
    assert loaded.events == project / "events.jsonl"
    assert loaded.choices.qdrant_path == project / "qdrant"


def test_paths_on_the_command_line_are_relative_to_where_one_stands(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = build_v2(tmp_path / "docmind")
    monkeypatch.chdir(tmp_path)

    made = cli("create", "-C", "docmind", "--dest", "kept", "--events", "log.jsonl", "--only", "identity")

    assert made.code == 0, made.err
    assert Path(made.out.strip()).parent == tmp_path / "kept"
    assert json.loads((tmp_path / "log.jsonl").read_text())["event"] == "backup_created"
    assert not env.backups.exists()


def test_events_go_where_the_settings_file_says(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build_v2(tmp_path / "docmind")
    (env.project / TOML).write_text('events = "log.jsonl"\n')
    monkeypatch.chdir(tmp_path)

    assert cli("create", "-C", env.project, "--only", "identity").code == 0

    assert (env.project / "log.jsonl").exists()
    assert not (tmp_path / "log.jsonl").exists()


def test_a_project_that_is_not_there_is_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("list", "-C", tmp_path / "nowhere")

    assert done.code == 2
    assert str(tmp_path / "nowhere") in done.err
    assert "-C" in done.err


# -- secrets -------------------------------------------------------------------------------------


def test_secrets_are_masked_wherever_settings_are_shown(cli: Cli, project: Path, variables: Set) -> None:
    dotenv(project, DOCMIND_DATABASE__QDRANT_API_KEY=SECRET, DOCMIND_HASHING__HMAC_SECRET=SECRET)
    variables(DOCMIND_IMG_AES_KEY_BASE64=SECRET, DOCMIND_DATABASE__QDRANT_URL=f"http://me:{SECRET}@localhost:1")

    said = [cli("show-config", "-C", project), cli("show-config", "-C", project, "--json")]
    said += [cli("create", "-C", project), cli("create", "-C", project, "--only", "qdrant", "--json", "-v")]

    assert [done.code for done in said[:2]] == [0, 0]
    assert [SECRET in done.out + done.err for done in said] == [False] * 4
    assert said[0].out.count("********") == 4
    variables(DOCMIND_DATABASE__QDRANT_URL="http://localhost:1")
    assert SECRET not in repr(load(project, {}))


def test_a_wrong_value_is_not_repeated_in_the_message(cli: Cli, project: Path, variables: Set) -> None:
    variables(DOCMIND_DATABASE__QDRANT_TIMEOUT=SECRET, DOCMIND_DATABASE__QDRANT_API_KEY=SECRET)

    done = cli("create", "-C", project, "--dry-run")

    assert done.code == 2
    assert SECRET not in done.out + done.err


# -- what is said when something is wrong --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [(TOML, "keep_lats = 3\n"), ("pyproject.toml", "[tool.docmind-backup]\nkeep-lats = 3\n")],
)
def test_an_unknown_key_names_file_key_and_what_was_meant(cli: Cli, project: Path, name: str, text: str) -> None:
    (project / name).write_text(text)

    done = cli("list", "-C", project)

    assert done.code == 2
    assert str(project / name) in done.err
    assert "'keep_lats'" in done.err
    assert "'keep_last'" in done.err


@pytest.mark.parametrize("key", ["keep_daily", "keep-daily"])
def test_pyproject_may_hold_our_table_until_there_is_a_file_of_our_own(cli: Cli, project: Path, key: str) -> None:
    (project / "pyproject.toml").write_text(f'[project]\nname = "x"\n[tool.docmind-backup]\n{key} = 5\n')
    assert shown(cli, project)["DOCMIND_BACKUP_KEEP_DAILY"] == ("5", "pyproject.toml")

    (project / TOML).write_text("keep_weekly = 1\n")
    assert shown(cli, project)["DOCMIND_BACKUP_KEEP_DAILY"] == ("0", "default")


def test_a_pyproject_of_somebody_else_is_none_of_our_business(cli: Cli, project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")

    assert {origin for _, origin in shown(cli, project).values()} == {"default", "resolved"}


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_an_unknown_variable_of_ours_is_a_warning(cli: Cli, project: Path, variables: Set, where: str) -> None:
    if where == "environment":
        variables(DOCMIND_BACKUP_KEEP_LATS="3")
    else:
        dotenv(project, DOCMIND_BACKUP_KEEP_LATS="3")

    done = cli("show-config", "-C", project)

    assert done.code == 0
    (warning,) = done.err.splitlines()
    assert warning.startswith("warning: ")
    assert "DOCMIND_BACKUP_KEEP_LATS" in warning
    assert "'keep_last'" in warning


WRONG: list[tuple[str, dict[str, str], str, str]] = [
    ("a number", {"DOCMIND_BACKUP_KEEP_LAST": "many"}, "", "DOCMIND_BACKUP_KEEP_LAST"),
    ("a range", {"DOCMIND_BACKUP_KEEP_LAST": "0"}, "", "DOCMIND_BACKUP_KEEP_LAST"),
    ("one of", {"DOCMIND_BACKUP_QDRANT": "perhaps"}, "", "DOCMIND_BACKUP_QDRANT"),
    ("yes or no", {"DOCMIND_BACKUP_ENABLED": "perhaps"}, "", "DOCMIND_BACKUP_ENABLED"),
    ("nested", {"DOCMIND_DATABASE__QDRANT_TIMEOUT": "long"}, "", "DOCMIND_DATABASE__QDRANT_TIMEOUT"),
    ("a list", {"DOCMIND_SECURITY__ENDPOINT_ALLOWLIST": "[oops"}, "", "DOCMIND_SECURITY__ENDPOINT_ALLOWLIST"),
    ("a group", {"DOCMIND_CACHE": "oops"}, "", "DOCMIND_CACHE"),
    ("a span", {"DOCMIND_BACKUP_KEEP_WITHIN": "7x"}, "", "7x"),
    ("in toml", {}, 'keep_last = "many"', f"{TOML}: keep_last"),
    ("not toml", {}, "keep_last 7", TOML),
]


@pytest.mark.parametrize("where", ["environment", ".env"])
@pytest.mark.parametrize(("given", "toml", "named"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_bad_value_is_named_as_it_was_set(
    cli: Cli, project: Path, variables: Set, given: dict[str, str], toml: str, named: str, where: str
) -> None:
    if where == "environment":
        variables(**given)
    else:
        dotenv(project, **given)
    (project / TOML).write_text(toml)

    done = cli("list", "-C", project)

    assert done.code == 2
    assert done.err.startswith("error: ")
    assert named in done.err
    assert ("(.env)" in done.err) == (where == ".env" and given != {} and named.startswith("DOCMIND_"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (TOML, "# ours\nkeep_daily = 1\nkeep-lats = 3\n", "unknown key 'keep_lats' on line 3"),
        ("pyproject.toml", "[other]\nlayuot=1\n[tool.docmind-backup]\n'layuot' = 1\n", "'layuot' on line 4"),
        (TOML, 'root = "b"\n\nkeep-last = "many"\n', f"{TOML}: keep_last on line 3: Input should be a valid integer"),
        (TOML, "\nshare = 7\n", "share on line 2"),
        (TOML, "qdrant = true\n", "Input should be 'auto', 'required' or 'off'"),
        (".env", "DOCMIND_X=1\nDOCMIND_BACKUP_DOWNLOADS=2\nexport docmind_backup_downloads=99\n", "(.env) on line 3"),
        (".env", "\nDOCMIND_DATABASE__QDRANT_TIMEOUT=soon\n", "DOCMIND_DATABASE__QDRANT_TIMEOUT (.env) on line 2"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(
    cli: Cli, project: Path, name: str, text: str, said: str
) -> None:
    (project / name).write_text(text)

    done = cli("create", "-C", project)

    assert done.code == 2
    assert said in done.err.splitlines()[0]
    assert done.err.splitlines()[1].startswith("hint: ")


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [(TOML, 'keep_last = "many"', "7"), (".env", "DOCMIND_DATABASE__QDRANT_TIMEOUT=soon", "60")],
)
def test_a_bad_value_comes_with_one_that_would_do(cli: Cli, project: Path, name: str, text: str, hint: str) -> None:
    (project / name).write_text(text)

    assert f"hint: without it: {hint}. docs/cli.md says what it may be" in cli("prune", "-C", project).err


def test_a_bad_flag_is_named_as_a_flag(cli: Cli, project: Path) -> None:
    done = cli("prune", "-C", project, "--keep-last", "20000")

    assert done.code == 2
    assert "--keep-last" in done.err


@pytest.mark.parametrize("text", ["[tool]\ndocmind-backup = 3\n", "tool = 3\n"])
def test_a_pyproject_of_another_shape_is_no_traceback(cli: Cli, project: Path, text: str) -> None:
    (project / "pyproject.toml").write_text(text)

    assert cli("list", "-C", project).code == (2 if "docmind" in text else 0)


def test_a_dotenv_that_is_no_text_is_refused_by_name(cli: Cli, project: Path) -> None:
    (project / ".env").write_bytes(b"DOCMIND_DATA_DIR=\xff\xfe\n")

    done = cli("list", "-C", project)

    assert done.code == 2
    assert str(project / ".env") in done.err


def test_a_line_of_dotenv_that_is_no_setting_is_named_once_and_the_rest_counts(cli: Cli, project: Path) -> None:
    (project / ".env").write_text('DOCMIND_DATA_DIR=there\nthis is "no setting\nDOCMIND_CACHE__DIR=c\n')

    done = cli("show-config", "-C", project)

    assert done.code == 0
    (warning,) = done.err.splitlines()
    assert warning.startswith(f"warning: {project / '.env'}: line 2 ")
    assert load(project, {}).environment.data_dir == project / "there"


def test_settings_of_docmind_that_are_none_of_ours_may_be_wrong(cli: Cli, project: Path, variables: Set) -> None:
    wrong = {"DOCMIND_LLM_TIMEOUT": "soon", "DOCMIND_PARSING": "{oops", "DOCMIND_DATABASE__QDRANT_SHARDS": "x"}
    variables(**wrong)
    dotenv(project, **wrong)

    assert cli("list", "-C", project).code == 0


# -- what to keep by -----------------------------------------------------------------------------


def test_any_keep_flag_replaces_all_configured_rules(project: Path) -> None:
    (project / TOML).write_text('keep_last = 9\nkeep_daily = 5\nkeep_within = "7d"\nkeep_incomplete = 1\n')

    assert load(project, {"keep_weekly": 2}).retention == RetentionPolicy(weekly=2, incomplete=1)
    assert load(project, {"keep_incomplete": 4}).retention.last == 9
    assert load(project, {"keep_last": None}).retention.daily == 5


@pytest.mark.parametrize(
    "flags",
    [
        ("--keep-last", "0"),
        ("--keep-daily", "0"),
        ("--keep-within", "0d"),
        ("--keep-weekly", "0", "--keep-hourly", "0"),
    ],
    ids=" ".join,
)
def test_nothing_left_to_keep_by_removes_nothing(cli: Cli, tmp_path: Path, flags: tuple[str, ...]) -> None:
    env = build_v2(tmp_path / "docmind")
    assert [cli("create", "-C", env.project, "--only", "identity").code for _ in range(2)] == [0, 0]

    said = [cli(command, "-C", env.project, *flags) for command in ("prune", "create")]

    assert [done.code for done in said] == [2, 2]
    assert all(done.err.startswith("error: ") for done in said)
    assert len(cli("list", "-C", env.project, "--json").json()) == 2


def test_a_policy_in_the_settings_that_keeps_nothing_is_refused(project: Path, variables: Set) -> None:
    variables(DOCMIND_BACKUP_KEEP_LAST="0")

    with pytest.raises(UsageError, match="DOCMIND_BACKUP_KEEP_LAST"):
        load(project, {})


@pytest.mark.parametrize(("calls", "decisions", "used"), [(60, 200, 60), (90, 45, 45), (45, 45, 45)])
def test_qdrant_is_given_no_longer_than_docminds_agents_have(
    calls: int, decisions: int, used: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_TIMEOUT", str(calls))
    monkeypatch.setenv("DOCMIND_AGENTS__DECISION_TIMEOUT", str(decisions))

    assert load(project, {}).request_timeout_s == used
