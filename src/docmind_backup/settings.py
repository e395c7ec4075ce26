"""Read DocMind's settings and our own, each value with its origin. The only module that reads the environment.

Sources and their order: flags > process environment > `.env` > `docmind-backup.toml` (or
`[tool.docmind-backup]` of pyproject.toml) > default. DocMind's names, defaults, nesting and path rules:
shared facts in docs/design.md; `DOCMIND_CONFIG__DOTENV_PRIORITY=dotenv_first` flips the first two,
except for `security`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from docmind_backup.core.environment import Choices, Environment
from docmind_backup.core.model import Layout, Part
from docmind_backup.core.rotator import RetentionPolicy, parse_within
from docmind_backup.errors import UsageError

TOML_NAME = "docmind-backup.toml"
KEEP_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")

LayoutWord = Literal["auto", "v1", "v2"]
QdrantWord = Literal["auto", "required", "off"]


class Secret(str):
    """A text that shows itself to nobody; `str()` of it is the text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "********" if self else "(empty)"


class _Group:
    """Settings by name: an annotation says how a value is read, the class attribute is the default."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)


class _Cache(_Group):
    dir: Path = Path("./cache")
    filename: str = "docmind.duckdb"


class _Chat(_Group):
    sqlite_path: Path = Path("chat.db")


class _Artifacts(_Group):
    dir: Path | None = None


class _Database(_Group):
    qdrant_url: str = "http://localhost:6333"
    qdrant_api_key: Secret = Secret()
    qdrant_collection: str = "docmind_docs"
    qdrant_image_collection: str = "docmind_images"
    qdrant_timeout: int = 60
    sqlite_db_path: Path = Path("docmind.db")
    vector_store_type: str = "qdrant"


class _SemanticCache(_Group):
    enabled: bool = False
    provider: str = "qdrant"
    collection_name: str = "docmind_semcache"


class _Security(_Group):
    allow_remote_endpoints: bool = False
    endpoint_allowlist: tuple[str, ...] = ("http://localhost", "https://localhost", "http://127.0.0.1")


class _Telemetry(_Group):
    jsonl_path: Path = Path("./logs/telemetry.jsonl")


class _Hashing(_Group):
    hmac_secret: Secret = Secret()


class _Layered(_Group):
    """Takes its values from the merged layers, which come from `_layers`."""

    prefix: ClassVar[str]
    """Of the variables that set it."""


class DocMindSettings(_Layered):
    """The part of DocMind's settings that says where things are (docs/cli.md)."""

    prefix = "DOCMIND_"

    data_dir: Path = Path("./data")
    cache: _Cache = _Cache({})
    cache_dir: Path = Path("./cache")
    chat: _Chat = _Chat({})
    database: _Database = _Database({})
    artifacts: _Artifacts = _Artifacts({})
    analytics_enabled: bool = False
    analytics_db_path: Path | None = None
    semantic_cache: _SemanticCache = _SemanticCache({})
    security: _Security = _Security({})
    telemetry: _Telemetry = _Telemetry({})
    hashing: _Hashing = _Hashing({})
    log_file: Path = Path("./logs/docmind.log")
    img_aes_key_base64: Secret = Secret()
    img_kid: str = ""


class OwnSettings(_Layered):
    """What this tool itself can be told: TOML key, `DOCMIND_BACKUP_<KEY>`, or a flag."""

    prefix = "DOCMIND_BACKUP_"

    enabled: bool | None = None
    root: Path | None = None
    layout: LayoutWord = "auto"
    include_uploads: bool | None = None
    include_analytics: bool | None = None
    include_logs: bool = False
    include_env: bool = False
    qdrant: QdrantWord = "auto"
    qdrant_path: Path | None = None
    collections: tuple[str, ...] = ()
    share: bool = True
    """What did not change since the last backup is shared with it (hard link or clone), not copied."""
    keep_last: int = 7
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within: str = ""
    keep_incomplete: int = 3
    lock_wait: float = 0.0
    busy_wait: float = 5.0
    connect_timeout: float = 10.0
    create_timeout: float = 3600.0
    stall_timeout: float = 60.0
    min_free: int = 64 * 1024 * 1024
    """Bytes that have to stay free on the destination's file system."""
    events: Path | None = None
    telemetry: bool = False
    """Also write events to DocMind's own telemetry file."""


LEAST: Mapping[str, float] = {"qdrant_timeout": 1, "keep_last": 1}
"""The least a number may be, where that is not 0."""
MOST: Mapping[str, float] = {"keep_last": 10_000}
ABOVE_ZERO = ("connect_timeout", "create_timeout", "stall_timeout")


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
    dotenv, unreadable = _dotenv(env_file)
    toml_path, toml = _read_toml(project)
    given = {name: value for name, value in flags.items() if value is not None}
    docmind_layers = _docmind_layers(dotenv)
    own_layers = [("flag", given), *_env_layers(OwnSettings, dotenv), (toml_path, toml)]
    docmind = _validated(DocMindSettings, docmind_layers)
    own = _validated(OwnSettings, own_layers)
    environment = _environment(project, env_file, docmind, own)
    return Settings(
        environment=environment,
        choices=_choices(project, own, only=only, accept_shrink=accept_shrink),
        retention=_retention(own, given),
        own=own,
        root=_resolve(project, own.root) if own.root else environment.data_dir / "backups",
        request_timeout_s=float(docmind.database.qdrant_timeout),
        events=_resolve(project, own.events) if own.events else None,
        values=(*_listed(docmind, docmind_layers), *_listed(own, own_layers)),
        warnings=(*unreadable, *_unknown_variables(dotenv)),
    )


# -- layers --------------------------------------------------------------------------------------

_Layer = tuple[str, Mapping[str, Any]]


def _env_layers(cls: type[_Layered], dotenv: Mapping[str, str]) -> list[_Layer]:
    return [
        ("environment", _from_variables(cls, os.environ, "environment")),
        (".env", _from_variables(cls, dotenv, ".env")),
    ]


def _from_variables(cls: type[_Layered], variables: Mapping[str, str], origin: str) -> dict[str, Any]:
    """What variables say, in any case; an empty one says nothing. `DOCMIND_CACHE__DIR` is one of a group."""
    known = {name.upper(): text for name, text in variables.items() if text}
    values: dict[str, Any] = {}
    for name, group in _fields(cls).items():
        variable = cls.prefix + name.upper()
        if isinstance(group, str):
            if variable in known:
                values[name] = known[variable]
            continue
        whole = _object(cls, name, known[variable], origin) if variable in known else {}
        members = ((member, f"{variable}__{member.upper()}") for member in _fields(group))
        if found := {**whole, **{member: known[v] for member, v in members if v in known}}:
            values[name] = found
    return values


def _object(cls: type[_Layered], name: str, text: str, origin: str) -> dict[str, Any]:
    """A whole group in one variable (`DOCMIND_CACHE`) is JSON or a UsageError that names it."""
    try:
        found = json.loads(text)
        if found is None or isinstance(found, dict):
            return found or {}
    except (ValueError, RecursionError):
        pass
    where = _name_at(cls, (name,), origin)
    raise UsageError(f"{where}: not JSON", hint="give its settings one by one, or as a JSON object")


def _docmind_layers(variables: Mapping[str, str]) -> list[_Layer]:
    """DocMind's own precedence: environment over `.env`, or the reverse where it was told so."""
    environment, dotenv = _env_layers(DocMindSettings, variables)
    raw = {**variables, **os.environ}
    masked = _without(environment[1], _listed_names(raw.get("DOCMIND_CONFIG__ENV_MASK_KEYS", "")))
    layers: list[_Layer] = [("environment", masked), dotenv]
    if raw.get("DOCMIND_CONFIG__DOTENV_PRIORITY", "").strip().lower() == "dotenv_first":
        security = {"security": masked["security"]} if "security" in masked else {}
        layers = [("environment", security), dotenv, ("environment", masked)]
    return [("overlay", _overlay(raw)), *layers]


def _dotenv(env_file: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables of `.env`, and a sentence for each line that is none. UsageError when it cannot be read."""
    if not env_file.is_file():
        return {}, ()
    import logging

    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    logging.getLogger(
        "dotenv.main"
    ).disabled = True  # it would say of each such line, each time, that it cannot read it
    try:
        with env_file.open(encoding="utf-8") as file:
            wrong = tuple(binding.original.line for binding in parse_stream(file) if binding.error)
        values = {name: value or "" for name, value in dotenv_values(env_file, encoding="utf-8").items()}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {env_file}: {_one_line(error)}") from error
    return values, tuple(f"{env_file}: line {line} is not a setting and is ignored" for line in wrong)


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
    own, shared = project / TOML_NAME, project / "pyproject.toml"
    if own.is_file():
        return TOML_NAME, _checked_keys(own, _parse_toml(own))
    if shared.is_file():
        tools = _parse_toml(shared).get("tool", {})
        table = tools.get("docmind-backup", {}) if isinstance(tools, Mapping) else {}
        return "pyproject.toml", _checked_keys(shared, table)
    return TOML_NAME, {}


def _parse_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path}: {_one_line(error)}") from error


def _checked_keys(path: Path, table: Any) -> Mapping[str, Any]:
    if not isinstance(table, Mapping):
        raise UsageError(f"{path}: [tool.docmind-backup] is not a table")
    values = {key.replace("-", "_"): value for key, value in table.items()}
    for key in values:
        if key not in _fields(OwnSettings):
            raise UsageError(f"{path}: unknown key '{key}'", hint=_suggestion(key, "docs/cli.md lists them all"))
    return values


def _suggestion(key: str, otherwise: str) -> str:
    import difflib

    close = difflib.get_close_matches(key.lower(), list(_fields(OwnSettings)), n=1)
    return f"did you mean '{close[0]}'?" if close else otherwise


def _unknown_variables(dotenv: Mapping[str, str]) -> Iterator[str]:
    prefix = OwnSettings.prefix
    for name in sorted({*os.environ, *dotenv}):
        key = name.upper().removeprefix(prefix).lower()
        if name.upper().startswith(prefix) and key not in _fields(OwnSettings):
            yield f"unknown variable {name} is ignored ({_suggestion(key, 'DocMind owns this prefix too')})"


_S = TypeVar("_S", bound=_Layered)


# -- validation and origins ----------------------------------------------------------------------


def _validated(cls: type[_S], layers: list[_Layer]) -> _S:
    merged: dict[str, Any] = {}
    for _, layer in reversed(layers):
        _merge(merged, layer)
    values: dict[str, Any] = {}
    for name, group in _fields(cls).items():
        if name not in merged:
            continue
        if isinstance(group, str):
            values[name] = _value(cls, layers, (name,), group, merged[name])
        else:
            values[name] = _members(cls, layers, name, group, merged[name])
    return cls(values)


def _members(cls: type[_Layered], layers: list[_Layer], name: str, group: type[_Group], given: Any) -> _Group:
    if not isinstance(given, Mapping):
        raise UsageError(f"{_name_at(cls, (name,), _origin(layers, (name,)))}: it is a group of settings, not one")
    members = _fields(group).items()
    return group({m: _value(cls, layers, (name, m), str(kind), given[m]) for m, kind in members if m in given})


def _value(cls: type[_Layered], layers: list[_Layer], path: tuple[str, ...], kind: str, given: Any) -> Any:
    """One value as its annotation `kind` wants it; a UsageError names where it was set, never what it is."""
    if given is None and kind.endswith("| None"):
        return None
    try:
        value = READERS[kind.removesuffix(" | None")](given)
        _check_range(path[-1], value)
    except (ValueError, RecursionError) as error:
        where = _name_at(cls, path, _origin(layers, path))
        raise UsageError(f"{where}: {error}", hint="see `docmind-backup show-config`") from None
    return value


def _check_range(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    least, most = LEAST.get(name, 0), MOST.get(name, float("inf"))
    if name in ABOVE_ZERO and not value > 0:
        raise ValueError("it has to be more than 0")
    if not least <= value <= most:
        raise ValueError(f"it has to be at least {least}" + (f" and at most {most:,}" if name in MOST else ""))


def _text(given: Any) -> str:
    if isinstance(given, str):
        return given
    raise ValueError("it has to be text")


def _path(given: Any) -> Path:
    if isinstance(given, Path):
        return given
    if isinstance(given, str):
        return Path(given)
    raise ValueError("it has to be a path")


def _number(given: Any) -> float:
    try:
        if isinstance(given, str | int | float) and not isinstance(given, bool):
            return float(given)
    except (ValueError, OverflowError):
        pass
    raise ValueError("it has to be a number")


def _whole(given: Any) -> int:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, float) and given.is_integer():
        return int(given)
    if isinstance(given, str) and (found := re.fullmatch(r"\s*([+-]?\d(?:_?\d){0,39})(?:\.0*)?\s*", given)):
        return int(found[1])
    raise ValueError("it has to be a whole number")


YES, NO = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")


def _yes_or_no(given: Any) -> bool:
    word = given.strip().lower() if isinstance(given, str) else str(given).lower() if isinstance(given, int) else ""
    if word not in (*YES, *NO):
        raise ValueError("it has to be true or false")
    return word in YES


def _words(given: Any) -> tuple[str, ...]:
    """A list in a variable: JSON as DocMind writes it, or words with commas between."""
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.lstrip().startswith("[") else [w.strip() for w in given.split(",")]
        except (ValueError, RecursionError):
            raise ValueError("it has to be a list: JSON, or words with commas between") from None
    if isinstance(given, list | tuple) and all(isinstance(word, str) for word in given):
        return tuple(given)
    raise ValueError("it has to be a list of words")


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(given: Any) -> str:
        if given not in words:
            raise ValueError(f"it has to be one of {', '.join(words)}")
        return str(given)

    return read


READERS: Mapping[str, Callable[[Any], Any]] = {
    "bool": _yes_or_no,
    "int": _whole,
    "float": _number,
    "str": _text,
    "Secret": lambda given: Secret(_text(given)),
    "Path": _path,
    "tuple[str, ...]": _words,
    "LayoutWord": _one_of("auto", "v1", "v2"),
    "QdrantWord": _one_of("auto", "required", "off"),
}
"""What reads a value, by its annotation; each raises ValueError that does not repeat the value."""


def _fields(cls: type[_Group]) -> dict[str, str | type[_Group]]:
    """Name to annotation; to its class for a group of settings."""
    return {
        name: type(default) if isinstance(default := getattr(cls, name), _Group) else kind
        for name, kind in cls.__annotations__.items()
    }


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


def _name_at(cls: type[_Layered], path: tuple[str, ...], origin: str) -> str:
    """The name by which the user set it: a flag, a variable, or a key of a file."""
    match origin:
        case "flag":
            return "--" + path[0].replace("_", "-")
        case "environment" | ".env" | "overlay" | "default":
            return f"{cls.prefix}{'__'.join(path[:2])}".upper() + (f" ({origin})" if origin != "environment" else "")
        case _:
            return f"{origin}: {path[0]}"


def _listed(settings: _Layered, layers: list[_Layer]) -> Iterator[Setting]:
    for path, value in _leaves(settings, ()):
        name = settings.prefix + "__".join(path).upper()
        yield Setting(name, _shown(value), _origin(layers, path))


def _leaves(settings: _Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in _fields(type(settings)):
        value = getattr(settings, name)
        if isinstance(value, _Group):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


_CREDENTIALS = re.compile(r"(?<=://).*@|(?<=[?#]).*")
"""Of an address: the part before the last `@`, and all after `?`: where people put passwords and keys."""


def _shown(value: Any) -> str:
    match value:
        case Secret():
            return repr(value)
        case None:
            return "(unset)"
        case tuple():
            return ", ".join(value) or "(empty)"
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
        endpoint_allowlist=docmind.security.endpoint_allowlist,
        qdrant_api_key=str(docmind.database.qdrant_api_key),
        image_key=str(docmind.img_aes_key_base64),
        image_key_id=docmind.img_kid,
        hmac_secret=str(docmind.hashing.hmac_secret),
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
