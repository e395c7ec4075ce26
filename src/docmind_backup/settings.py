"""Read DocMind's settings and our own, each value with its origin. The only module that reads the environment.

Sources and their order: flags > process environment > `.env` > `docmind-backup.toml` (or
`[tool.docmind-backup]` of pyproject.toml) > default. DocMind's names, defaults, nesting and path rules:
shared facts in docs/design.md; `DOCMIND_CONFIG__DOTENV_PRIORITY=dotenv_first` flips the first two,
except for `security`.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from docmind_backup.core.environment import Choices, Environment
from docmind_backup.core.model import Layout, Part
from docmind_backup.core.rotator import RetentionPolicy, parse_within
from docmind_backup.errors import UsageError
from docmind_backup.pinpoint import line_of

TOML_NAME, SHARED_NAME = "docmind-backup.toml", "pyproject.toml"
KEEP_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
logging.getLogger("dotenv.main").disabled = True
"""It would say of each line that it cannot read, at each reading, that it cannot: `_unreadable_lines` does."""


def _items(value: Any) -> Any:
    """A list in a variable: JSON as DocMind writes it, or words with commas between."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else [word.strip() for word in value.split(",")]


_Words = Annotated[list[str], NoDecode, BeforeValidator(_items)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Cache(_Group):
    dir: Path = Path("./cache")
    filename: str = "docmind.duckdb"


class _Chat(_Group):
    sqlite_path: Path = Path("chat.db")


class _Artifacts(_Group):
    dir: Path | None = None


class _Database(_Group):
    qdrant_url: str = "http://localhost:6333"
    qdrant_api_key: SecretStr = SecretStr("")
    qdrant_collection: str = "docmind_docs"
    qdrant_image_collection: str = "docmind_images"
    qdrant_timeout: int = Field(default=60, ge=1)
    sqlite_db_path: Path = Path("docmind.db")
    vector_store_type: str = "qdrant"


class _Agents(_Group):
    decision_timeout: int = Field(default=200, ge=1)


class _SemanticCache(_Group):
    enabled: bool = False
    provider: str = "qdrant"
    collection_name: str = "docmind_semcache"


class _Security(_Group):
    allow_remote_endpoints: bool = False
    endpoint_allowlist: _Words = ["http://localhost", "https://localhost", "http://127.0.0.1"]


class _Telemetry(_Group):
    jsonl_path: Path = Path("./logs/telemetry.jsonl")


class _Hashing(_Group):
    hmac_secret: SecretStr = SecretStr("")


class _Layered(BaseSettings):
    """Takes its values from the merged layers only; the layers themselves come from `_layers`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


class DocMindSettings(_Layered):
    """The part of DocMind's settings that says where things are (docs/cli.md)."""

    model_config = SettingsConfigDict(
        env_prefix="DOCMIND_", env_nested_delimiter="__", extra="ignore", env_ignore_empty=True
    )

    data_dir: Path = Path("./data")
    cache: _Cache = _Cache()
    cache_dir: Path = Path("./cache")
    chat: _Chat = _Chat()
    database: _Database = _Database()
    agents: _Agents = _Agents()
    artifacts: _Artifacts = _Artifacts()
    analytics_enabled: bool = False
    analytics_db_path: Path | None = None
    semantic_cache: _SemanticCache = _SemanticCache()
    security: _Security = _Security()
    telemetry: _Telemetry = _Telemetry()
    hashing: _Hashing = _Hashing()
    log_file: Path = Path("./logs/docmind.log")
    img_aes_key_base64: SecretStr = SecretStr("")
    img_kid: str = ""


class OwnSettings(_Layered):
    """What this tool itself can be told: TOML key, `DOCMIND_BACKUP_<KEY>`, or a flag."""

    model_config = SettingsConfigDict(env_prefix="DOCMIND_BACKUP_", extra="ignore", env_ignore_empty=True)

    enabled: bool | None = None
    root: Path | None = None
    layout: Literal["auto", "v1", "v2"] = "auto"
    include_uploads: bool | None = None
    include_analytics: bool | None = None
    include_logs: bool = False
    include_env: bool = False
    qdrant: Literal["auto", "required", "off"] = "auto"
    qdrant_path: Path | None = None
    collections: _Words = []
    share: bool = True
    """What did not change since the last backup is shared with it (hard link or clone), not copied."""
    keep_last: int = Field(default=7, ge=1, le=10_000)
    keep_hourly: int = Field(default=0, ge=0)
    keep_daily: int = Field(default=0, ge=0)
    keep_weekly: int = Field(default=0, ge=0)
    keep_monthly: int = Field(default=0, ge=0)
    keep_yearly: int = Field(default=0, ge=0)
    keep_within: str = ""
    keep_incomplete: int = Field(default=3, ge=0)
    lock_wait: float = Field(default=0, ge=0)
    busy_wait: float = Field(default=5, ge=0)
    connect_timeout: float = Field(default=10, gt=0)
    create_timeout: float = Field(default=3600, gt=0)
    late_wait: float = Field(default=300, ge=0)
    """Seconds that a collection snapshot whose creation was not answered is looked for."""
    stall_timeout: float = Field(default=60, gt=0)
    min_rate: float = Field(default=1024, ge=0)
    """Bytes a second, on average over `stall_timeout`: a download that brings less is given up as silent."""
    download_retries: int = Field(default=5, ge=0, le=100)
    retry_wait: float = Field(default=1, ge=0)
    """Seconds before the first of these; twice as long before each of the next, 30 at most."""
    stop_timeout: float = Field(default=5, gt=0)
    """Seconds for each answer of Qdrant once a signal came: what is ours is still deleted there."""
    downloads: int = Field(default=2, ge=1, le=16)
    """Collections at once."""
    min_free: int = Field(default=64 * 1024 * 1024, ge=0)
    """Bytes that have to stay free on the destination's file system."""
    events: Path | None = None
    telemetry: bool = False
    """Also write events to DocMind's own telemetry file."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as `show-config` prints it."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything one run was told, resolved and validated."""

    environment: Environment
    choices: Choices
    retention: RetentionPolicy
    own: OwnSettings
    root: Path
    """Where the backups are."""
    request_timeout_s: float
    """As DocMind has it: never longer than its agents may take for a decision."""
    events: Path | None
    """Where else than in `root` events go."""
    values: tuple[Setting, ...] = ()
    warnings: tuple[str, ...] = ()


def load(
    project: Path,
    flags: Mapping[str, Any],
    *,
    only: frozenset[Part] = frozenset(),
    accept_shrink: bool = False,
) -> Settings:
    """Read all sources for the DocMind project in `project`.

    `flags` are fields of OwnSettings given on the command line; a `keep_*` among them replaces every
    configured `keep_*`. Raises UsageError naming the file or variable that is wrong.
    """
    project = Path(os.path.abspath(project))
    if not project.is_dir():
        raise UsageError(f"no such project folder: {project}", hint="give DocMind's folder with -C DIR")
    env_file = project / ".env"
    toml_path, toml = _read_toml(project)
    given = {name: value for name, value in flags.items() if value is not None}
    docmind_layers = _docmind_layers(env_file)
    own_layers = [("flag", given), *_env_layers(OwnSettings, env_file), (toml_path, toml)]
    docmind = _validated(DocMindSettings, docmind_layers, project)
    own = _validated(OwnSettings, own_layers, project)
    environment = _environment(project, env_file, docmind, own)
    return Settings(
        environment=environment,
        choices=_choices(project, own, only=only, accept_shrink=accept_shrink),
        retention=_retention(own, given),
        own=own,
        root=_resolve(project, own.root) if own.root else environment.data_dir / "backups",
        request_timeout_s=float(min(docmind.database.qdrant_timeout, docmind.agents.decision_timeout)),
        events=_resolve(project, own.events) if own.events else None,
        values=(*_listed(docmind, docmind_layers), *_listed(own, own_layers)),
        warnings=(*_unreadable_lines(env_file), *_unknown_variables(env_file)),
    )


# -- layers --------------------------------------------------------------------------------------

_Layer = tuple[str, Mapping[str, Any]]


def _env_layers(cls: type[BaseSettings], env_file: Path) -> list[_Layer]:
    try:
        environment = _values(cls, "environment", lambda: EnvSettingsSource(cls)())
        if not env_file.is_file():
            return [("environment", environment), (".env", {})]
        dotenv = _values(cls, ".env", lambda: DotEnvSettingsSource(cls, env_file=env_file)())
        return [("environment", environment), (".env", _known(cls, dotenv))]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {env_file}: {_one_line(error)}") from error


def _values(cls: type[BaseSettings], origin: str, source: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a source says; a whole group in one variable (`DOCMIND_CACHE`) is JSON or a UsageError that names it."""
    try:
        return source()
    except SettingsError as error:
        group = re.search(r'field "(\w+)"', str(error))
        where = _name_at(cls, (group[1],), origin) if group else origin
        raise UsageError(f"{where}: not JSON", hint="give its settings one by one, or as a JSON object") from None


def _known(cls: type[BaseSettings], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in cls.model_fields}


def _docmind_layers(env_file: Path) -> list[_Layer]:
    """DocMind's own precedence: environment over `.env`, or the reverse where it was told so."""
    environment, dotenv = _env_layers(DocMindSettings, env_file)
    raw = {**_dotenv(env_file), **os.environ}
    masked = _without(environment[1], _listed_names(raw.get("DOCMIND_CONFIG__ENV_MASK_KEYS", "")))
    layers: list[_Layer] = [("environment", masked), dotenv]
    if raw.get("DOCMIND_CONFIG__DOTENV_PRIORITY", "").strip().lower() == "dotenv_first":
        security = {"security": masked["security"]} if "security" in masked else {}
        layers = [("environment", security), dotenv, ("environment", masked)]
    return [("overlay", _overlay(raw)), *layers]


def _dotenv(env_file: Path) -> dict[str, str]:
    if not env_file.is_file():
        return {}
    return {name: value or "" for name, value in dotenv_values(env_file).items()}


def _listed_names(text: str) -> list[str]:
    return [name for name in text.strip("[] ").replace('"', "").replace(",", " ").split() if name]


def _without(values: Mapping[str, Any], masked: list[str]) -> dict[str, Any]:
    """`values` less the variables DocMind was told to ignore (DOCMIND_CONFIG__ENV_MASK_KEYS)."""
    kept: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for name in masked:
        group, _, field = name.upper().removeprefix("DOCMIND_").lower().partition("__")
        if field and isinstance(kept.get(group), dict):
            kept[group].pop(field, None)
        elif not field:
            kept.pop(group, None)
    return kept


def _overlay(raw: Mapping[str, str]) -> dict[str, Any]:
    """`DOCMIND_CONFIG__ENV_OVERLAY=KEY:settings.path,...`: foreign variables that set DocMind's settings."""
    values: dict[str, Any] = {}
    for pair in _listed_names(raw.get("DOCMIND_CONFIG__ENV_OVERLAY", "")):
        key, _, path = pair.partition(":")
        if path and raw.get(key):
            *groups, field = path.split(".")
            value: Any = raw[key]
            for name in reversed((*groups, field)):
                value = {name: value}
            _merge(values, value)
    return values


def _read_toml(project: Path) -> tuple[str, Mapping[str, Any]]:
    """The name of the file our own settings came from, and what it says."""
    own, shared = project / TOML_NAME, project / SHARED_NAME
    if own.is_file():
        return TOML_NAME, _checked_keys(own, _parse_toml(own))
    if shared.is_file():
        tools = _parse_toml(shared).get("tool", {})
        table = tools.get("docmind-backup", {}) if isinstance(tools, Mapping) else {}
        return SHARED_NAME, _checked_keys(shared, table)
    return TOML_NAME, {}


def _parse_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path}: {_one_line(error)}") from error


def _checked_keys(path: Path, table: Any) -> Mapping[str, Any]:
    if not isinstance(table, Mapping):
        raise UsageError(f"{path}: [tool.docmind-backup] is not a table")
    values = {key.replace("-", "_"): value for key, value in table.items()}
    for key in values:
        if key not in OwnSettings.model_fields:
            line = line_of(path, key, shared=path.name == SHARED_NAME)
            hint = _suggestion(key, "docs/cli.md lists them all")
            raise UsageError(f"{path}: unknown key '{key}'{line}", hint=hint)
    return values


def _suggestion(key: str, otherwise: str) -> str:
    close = difflib.get_close_matches(key.lower(), list(OwnSettings.model_fields), n=1)
    return f"did you mean '{close[0]}'?" if close else otherwise


def _unknown_variables(env_file: Path) -> Iterator[str]:
    prefix = "DOCMIND_BACKUP_"
    for name in sorted({*os.environ, *_dotenv(env_file)}):
        key = name.upper().removeprefix(prefix).lower()
        if name.upper().startswith(prefix) and key not in OwnSettings.model_fields:
            yield f"unknown variable {name} is ignored ({_suggestion(key, 'DocMind owns this prefix too')})"


def _unreadable_lines(env_file: Path) -> Iterator[str]:
    if env_file.is_file():
        with env_file.open(encoding="utf-8") as file:
            for binding in parse_stream(file):
                if binding.error:
                    yield f"{env_file}: line {binding.original.line} is not a setting and is ignored"


_S = TypeVar("_S", bound=_Layered)


# -- validation and origins ----------------------------------------------------------------------


def _validated(cls: type[_S], layers: list[_Layer], project: Path) -> _S:
    merged: dict[str, Any] = {}
    for _, values in reversed(layers):
        _merge(merged, values)
    try:
        return cls(**merged)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = tuple(str(step) for step in first["loc"])
        origin = _origin(layers, path)
        where = f"{_name_at(cls, path, origin)}{_line(cls, path, project / origin)}"
        raise UsageError(f"{where}: {first['msg']}", hint=_allowed(cls, path)) from None


def _line(cls: type[BaseSettings], path: tuple[str, ...], file: Path) -> str:
    if file.name == ".env":
        return line_of(file, _name_at(cls, path, "environment"), last=True)
    return line_of(file, path[0], shared=file.name == SHARED_NAME) if file.suffix == ".toml" else ""


def _allowed(cls: type[BaseModel], path: tuple[str, ...]) -> str:
    """What may stand there instead."""
    field = cls.model_fields[path[0]]
    if isinstance(field.default, BaseModel) and path[1:] and path[1] in type(field.default).model_fields:
        return _allowed(type(field.default), path[1:])
    return f"without it: {_shown(field.default)}. docs/cli.md says what it may be"


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _origin(layers: list[_Layer], path: tuple[str, ...]) -> str:
    for origin, values in layers:
        found: Any = values
        for step in path:
            found = found.get(step) if isinstance(found, Mapping) else None
        if found is not None:
            return origin
    return "default"


def _name_at(cls: type[BaseSettings], path: tuple[str, ...], origin: str) -> str:
    """The name by which the user set it: a flag, a variable, or a key of a file."""
    match origin:
        case "flag":
            return "--" + path[0].replace("_", "-")
        case "environment" | ".env" | "overlay" | "default":
            return f"{cls.model_config.get('env_prefix', '')}{'__'.join(path[:2])}".upper() + (
                f" ({origin})" if origin != "environment" else ""
            )
        case _:
            return f"{origin}: {path[0]}"


def _listed(settings: BaseSettings, layers: list[_Layer]) -> Iterator[Setting]:
    prefix = str(settings.model_config.get("env_prefix", ""))
    for path, value in _leaves(settings, ()):
        name = prefix + "__".join(path).upper()
        yield Setting(name, _shown(value), _origin(layers, path))


def _leaves(model: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


_CREDENTIALS = re.compile(r"(?<=://).*@|(?<=[?#]).*")
"""Of an address: the part before the last `@`, and all after `?`: where people put passwords and keys."""


def _shown(value: Any) -> str:
    match value:
        case SecretStr():
            return "********" if value.get_secret_value() else "(empty)"
        case None:
            return "(unset)"
        case list():
            return ", ".join(map(str, value)) or "(empty)"
        case _:
            text = str(value)
            return (_CREDENTIALS.sub("********", text) if "://" in text else text) or "(empty)"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# -- resolving -----------------------------------------------------------------------------------


def _resolve(base: Path, path: Path) -> Path:
    """Absolute, `..` and `~` folded; links are left for scan to resolve."""
    return Path(os.path.normpath(base / path.expanduser()))


def _bare(path: Path) -> bool:
    return len(path.parts) == 1


def _environment(project: Path, env_file: Path, docmind: DocMindSettings, own: OwnSettings) -> Environment:
    data_dir = _resolve(project, docmind.data_dir)
    analytics, notes = _analytics_db(project, data_dir, docmind.analytics_db_path)
    semantic = docmind.semantic_cache
    return Environment(
        project=project,
        data_dir=data_dir,
        cache_db=_resolve(project, docmind.cache.dir) / "ingestion" / docmind.cache.filename,
        cache_db_v1=_resolve(project, docmind.cache_dir) / docmind.cache.filename,
        chat_db=_below_data(project, data_dir, docmind.chat.sqlite_path),
        sqlite_db_v1=_below_data(project, data_dir, docmind.database.sqlite_db_path),
        analytics_db=analytics,
        analytics_enabled=docmind.analytics_enabled,
        artifacts=_resolve(project, docmind.artifacts.dir) if docmind.artifacts.dir else data_dir / "artifacts",
        log_file=_resolve(project, docmind.log_file),
        telemetry=_resolve(project, docmind.telemetry.jsonl_path),
        env_file=env_file,
        qdrant_url=docmind.database.qdrant_url,
        text_collection=docmind.database.qdrant_collection,
        image_collection=docmind.database.qdrant_image_collection,
        semantic_cache_collection=(
            semantic.collection_name if semantic.enabled and semantic.provider == "qdrant" else ""
        ),
        layout=None if own.layout == "auto" else Layout(own.layout),
        allow_remote_endpoints=docmind.security.allow_remote_endpoints,
        endpoint_allowlist=tuple(docmind.security.endpoint_allowlist),
        qdrant_api_key=docmind.database.qdrant_api_key.get_secret_value(),
        image_key=docmind.img_aes_key_base64.get_secret_value(),
        image_key_id=docmind.img_kid,
        hmac_secret=docmind.hashing.hmac_secret.get_secret_value(),
        notes=notes,
    )


def _below_data(project: Path, data_dir: Path, path: Path) -> Path:
    """DocMind's rule for databases: a bare name lies in data_dir, anything else is relative to the project."""
    return data_dir / path if _bare(path) and not path.is_absolute() else _resolve(project, path)


def _analytics_db(project: Path, data_dir: Path, override: Path | None) -> tuple[Path, tuple[str, ...]]:
    """DocMind takes an override only below a folder of data_dir, ending in .duckdb or .db; else its default."""
    default = data_dir / "analytics" / "analytics.duckdb"
    if override is None:
        return default, ()
    path = _resolve(project, override)
    accepted = path.is_relative_to(data_dir) and path.parent != data_dir and path.suffix in (".duckdb", ".db")
    if accepted:
        return path, ()
    return default, (f"DOCMIND_ANALYTICS_DB_PATH={override} is ignored, as DocMind does: using {default}",)


def _choices(project: Path, own: OwnSettings, *, only: frozenset[Part], accept_shrink: bool) -> Choices:
    return Choices(
        only=only,
        include_uploads=own.include_uploads,
        include_analytics=own.include_analytics,
        include_logs=own.include_logs,
        include_env=own.include_env,
        qdrant=own.qdrant,
        qdrant_path=_resolve(project, own.qdrant_path) if own.qdrant_path else None,
        collections=tuple(dict.fromkeys(own.collections)),
        accept_shrink=accept_shrink,
        share=own.share,
    )


def _retention(own: OwnSettings, given: Mapping[str, Any]) -> RetentionPolicy:
    """The settings' rules, or only those of the command line where it names any."""
    named = {f"keep_{word}" for word in (*KEEP_COUNTS, "within")} & given.keys()
    counts = {word: getattr(own, f"keep_{word}") if not named or f"keep_{word}" in named else 0 for word in KEEP_COUNTS}
    within = own.keep_within if not named or "keep_within" in named else ""
    policy = RetentionPolicy(**counts, within=parse_within(within) if within else None, incomplete=own.keep_incomplete)
    if policy.empty():
        raise UsageError("nothing left to keep by: every --keep-* is 0", hint="for example --keep-last 7")
    return policy


@contextmanager
def no_variables() -> Iterator[None]:
    """For the length of the block no variable of the shell says where anything is: the demo must not touch it."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.upper().startswith("DOCMIND_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def local_zone_name() -> str:
    """The IANA name of local time: `TZ`, else where /etc/localtime points; empty when it cannot be told."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if named:
        return named
    target = os.path.realpath("/etc/localtime")
    return target.partition("zoneinfo/")[2]
