"""The dependency rule, held by reading the source: who may import what, who may touch the outside world.

Imports inside functions count like those above them; only where they stand makes start-up quick.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
PACKAGE = "docmind_backup"
FUNCTION_LINES = 40

SEAMS = {
    "typer": {"cli", "cli_help", "cli_restore", "cli_shared"},
    "rich": {"render"},
    "pydantic": {"settings"},
    "pydantic_settings": {"settings"},
    "dotenv": {"settings", "whereabouts"},
    "httpx": {"connections", "downloading", "qdrant", "qdrant_restore"},
    "httpcore": {"connections"},
    "qdrant_client": {"connections", "qdrant", "sample"},
    "qdrant_edge": {"engines"},
    "duckdb": {"engines"},
}
"""Each library that is not ours, and the modules that know it. One that is not here is known to none."""

LAZY = {"qdrant_client", "qdrant_edge", "duckdb"}
"""Imported inside functions only: over a second of numpy and grpc; or of an extra that need not be there."""

START_UP = {
    *("settings", "compose", "operations", "looking", "rounds", "render", "documents", "demo", "qdrant", "sample"),
    *("opening", "picking", "rehearsal", "render_restore", "restores", "scripting"),
}
"""What the command line imports inside its commands, so that `--help` and completion stay instant."""

WALL_CLOCK = {"compose", "collection", "copying"}
"""Who may ask what time it is: for an id, a record, the age of a file's last change. What waits goes by the monotonic
clock, which no suspend and nobody who sets the time moves."""

ALLOWED = {
    "__init__": "",
    "__main__": "cli",
    # the face
    "cli": "__init__ core errors cli_help cli_restore cli_shared compose demo documents looking operations rehearsal"
    " render rounds surroundings verify",
    "cli_help": "",
    "cli_restore": "core errors cli_help cli_shared documents opening operations picking render render_restore restores"
    " scripting",
    "cli_shared": "core cli_help compose looking render",
    "render": "core catalog ledger leftovers operations",
    "render_restore": "core picking render restores",
    "documents": "core catalog ledger leftovers operations picking restores",
    "demo": "errors render sample settings starting",
    # the composition root: the only module that knows both the settings and the real server
    "compose": "core errors catalog events looking operations qdrant settings starting whereabouts",
    "settings": "core errors pinpoint",
    "whereabouts": "",
    # what the tool does
    "operations": "core errors catalog events executor journal ledger leftovers looking scan scratch_collections",
    "restores": (
        "core errors belonging catalog deep durable journal looking opening operations restoring returning scratch"
        " scripting"
    ),
    "restoring": "core errors bringing catalog durable inuse journal opening reach restored",
    "picking": "core errors bringing catalog copying durable opening plain reach restoring",
    "opening": "core errors catalog copying durable foreign looking plain",
    "scripting": "core errors catalog durable plain",
    "rehearsal": "core errors bringing deep proving restored scratch scratch_collections uploads",
    "rounds": "core errors catalog foreign looking proving sharing verify",
    "looking": "core errors catalog ledger",
    "leftovers": "core errors ledger scratch_collections",
    "executor": (
        "core errors capture catalog collection consistency copying crew durable embedded ledger records sharing"
        " starting"
    ),
    "scan": "core errors embedded journal reach",
    "verify": "core errors catalog copying crew plain reach snapshot_tar",
    # one thing each, on the core
    "capture": "core copying crew databases embedded folders readlock sharing staging",
    "breaking": "errors starting",
    "briefs": "__init__ core durable",
    "belonging": "core errors consistency scan",
    "bringing": "core errors catalog copying crew plain reach sharing",
    "inuse": "core errors catalog",
    "journal": "core errors catalog durable",
    "restored": "core errors bringing copying crew deep queries reach scratch",
    "catalog": "core errors briefs durable reach",
    "collection": "core errors creating durable ledger sharing",
    "consistency": "core errors records",
    "copying": "core direct folders",
    "creating": "core errors ledger",
    "crew": "core copying errors starting",
    "deep": "core errors scratch",
    "engines": "core snapshot_tar",
    "databases": "core copying queries readlock staging",
    "direct": "",
    "downloading": "core breaking errors receiving",
    "durable": "errors reach",
    "embedded": "core copying databases staging",
    "events": "",
    "ledger": "core errors catalog durable",
    "connections": "__init__ breaking",
    "qdrant": "core breaking connections downloading errors qdrant_restore",
    "qdrant_restore": "core",
    "readlock": "core copying",
    "queries": "starting",
    "receiving": "core direct starting",
    "records": "__init__ core durable",
    "returning": "core errors collection durable ledger plain snapshot_tar uploads",
    "sample": "",
    "scratch": "core errors folders reach",
    "scratch_collections": "core errors catalog durable plain uploads",
    "sharing": "core catalog folders plain",
    "folders": "",
    "reach": "folders",
    "foreign": "core catalog copying snapshot_tar verify",
    "proving": "core errors catalog deep plain scratch",
    "snapshot_tar": "",
    "starting": "",
    "pinpoint": "",
    "plain": "",
    "surroundings": "",
    "staging": "core copying readlock sharing",
    "uploads": "core errors",
    # pure
    "errors": "",
    "core": "",
    "core.parts": "",
    "core.model": "core.parts",
    "core.environment": "core.model",
    "core.endpoint": "",
    "core.server": "core.model",
    "core.consistency": "core.model core.server",
    "core.format": "core.model errors",
    "core.docmind": "core.consistency core.format core.model",
    "core.readme": "core.format core.model core.qdrant_rest core.restore",
    "core.planner": "core.consistency core.environment core.model core.sharing",
    "core.sharing": "core.model",
    "core.proposing": "",
    "core.proof": "core.model",
    "core.foreign": "core.docmind core.format core.model",
    "core.restorable": "core.foreign core.format core.model core.restore",
    "core.qdrant_rest": "core.model core.server errors",
    "core.units": "",
    "core.fitness": "core.model",
    "core.journal": "core.format core.model",
    "core.selection": "core.model core.restore errors",
    "core.restore": "core.environment core.fitness core.model core.units",
    "core.script": "core.format core.model core.qdrant_rest core.restore core.shell",
    "core.shell": "",
    "core.returning": "core.journal core.model core.qdrant_rest core.restore",
    "core.rotator": "core.model errors",
    "core.rehearsal": "core.model core.returning core.server",
    "core.verifier": "core.model core.proof core.rehearsal errors",
}
"""Module -> the modules of ours it imports, no more and no fewer; `core` stands for all of the core."""

PURE = (
    "__future__ base64 collections contextlib dataclasses datetime enum functools hashlib ipaddress itertools json"
    " math pathlib re shlex string textwrap typing urllib.parse"
)
"""All of the standard library that the core may know: values, and functions from values to values."""

IMPURE = {
    "it reads or writes files": "os io shutil tempfile glob fileinput mmap fcntl stat tarfile zipfile sqlite3 csv",
    "it talks to somebody": "socket ssl http urllib.request asyncio select subprocess multiprocessing ctypes",
    "its answer is another one each time": "time random secrets uuid",
    "its answer depends on the machine": "sys platform locale getpass pwd zoneinfo importlib",
    "it acts behind the caller's back": "threading signal atexit logging warnings",
}
"""Why the rest is kept out of the core; not complete: what is not in PURE is forbidden anyhow."""

IMPURE_FUNCTIONS = {
    "a file": "open",
    "the terminal": "print input breakpoint",
    "a way round this test": "eval exec compile __import__",
}
IMPURE_METHODS = {
    "a file": "open read_text read_bytes write_text write_bytes touch mkdir unlink rename rmdir chmod file_digest",
    "a look at the disk": "exists is_dir is_file is_symlink stat lstat iterdir glob rglob walk readlink samefile",
    "the working or home folder, or links": "absolute resolve cwd home expanduser",
    "the clock": "now today utcnow",
}
"""What the core must not call: a Path is a value there, never a handle, and `now` is an argument."""

LONG = {
    "cli.create": "its options are its signature",
    "core.planner.plan_backup": "one field of the plan a line: the plan is what it is about",
    "render.show": "a table, row by row",
}
"""Functions of more than FUNCTION_LINES lines, each with the reason."""


# -- reading the source --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's module."""

    module: str
    """Ours relative to the package (`core.model`), others in full."""
    ours: bool
    line: int
    lazy: bool
    """Inside a function."""
    typing_only: bool
    """Below `if TYPE_CHECKING`."""


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    path: Path
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def is_core(self) -> bool:
        return self.name.startswith("core.")


def read_modules() -> dict[str, Module]:
    return {module.name: module for module in map(_read, sorted((SOURCE / PACKAGE).rglob("*.py")))}


def _read(path: Path) -> Module:
    parts = path.relative_to(SOURCE / PACKAGE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
    tree = ast.parse(path.read_text("utf-8"))
    return Module(name, path, tree, tuple(_imports(tree)))


def _imports(node: ast.AST, *, lazy: bool = False, typing_only: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checking = typing_only or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        match child:
            case ast.Import(names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module, names, level):
                assert level == 0, f"relative import in line {child.lineno}"
                modules = [_module(module or "", alias.name) for alias in names]
            case _:
                modules = []
        for module in dict.fromkeys(modules):
            ours = module.split(".")[0] == PACKAGE
            name = (module.removeprefix(PACKAGE).removeprefix(".") or "__init__") if ours else module
            yield Import(name, ours, getattr(child, "lineno", 0), inside, checking)
        yield from _imports(child, lazy=inside, typing_only=checking)


def _module(package: str, name: str) -> str:
    """`from docmind_backup.core import rotator` imports a module; `from os import path` only counts as os."""
    here = SOURCE.joinpath(*package.split("."))
    is_module = (here / f"{name}.py").is_file() or (here / name / "__init__.py").is_file()
    return f"{package}.{name}" if is_module else package


MODULES = read_modules()
EACH = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
EACH_OF_THE_CORE = pytest.mark.parametrize(
    "module", [m for m in MODULES.values() if m.is_core], ids=[n for n, m in MODULES.items() if m.is_core]
)


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def words(table: dict[str, str]) -> dict[str, str]:
    """A table of reason -> names, turned round."""
    return {name: reason for reason, names in table.items() for name in names.split()}


# -- who knows whom ------------------------------------------------------------------------------


def test_every_module_stands_in_the_table_and_nothing_else_does() -> None:
    assert set(ALLOWED) == set(MODULES)


@EACH
def test_a_module_imports_exactly_the_modules_that_the_table_names(module: Module) -> None:
    imported = {found.module for found in module.imports if found.ours}
    if not module.is_core:
        imported = {name.split(".")[0] if name.startswith("core.") else name for name in imported}

    assert sorted(imported) == sorted(ALLOWED[module.name].split())


@EACH
def test_a_library_is_known_only_at_its_seam(module: Module) -> None:
    foreign = {found.module.split(".")[0] for found in module.imports if not found.ours} - sys.stdlib_module_names

    assert foreign <= set(SEAMS)
    assert [name for name in foreign if module.name not in SEAMS[name]] == []


def test_every_seam_of_the_table_is_one() -> None:
    known = {(found.module.split(".")[0], module.name) for module in MODULES.values() for found in module.imports}

    assert {(library, name) for library, names in SEAMS.items() for name in names} <= known


@EACH
def test_slow_libraries_are_imported_where_they_are_used(module: Module) -> None:
    eager = [f for f in module.imports if f.module.split(".")[0] in LAZY and not (f.lazy or f.typing_only)]

    assert eager == []


def test_the_command_line_imports_what_is_slow_inside_its_commands() -> None:
    faces = ("cli", "cli_help", "cli_restore", "cli_shared")
    found = [f for name in faces for f in MODULES[name].imports if f.ours and not (f.lazy or f.typing_only)]
    eager = {f.module for f in found}

    assert not eager & START_UP
    assert eager == {"__init__", "core.parts", "core.proposing", "errors", *faces} - {"cli"}


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {name: {f.module for f in module.imports if f.ours} for name, module in MODULES.items()}

    assert len(tuple(TopologicalSorter(graph).static_order())) == len(MODULES)


# -- what the core keeps out ---------------------------------------------------------------------


@EACH_OF_THE_CORE
def test_the_core_imports_only_pure_modules_of_the_standard_library(module: Module) -> None:
    why = words(IMPURE)
    foreign = [found.module for found in module.imports if not found.ours]
    impure = [name for name in foreign if not {name, name.split(".")[0]} & set(PURE.split())]

    assert {name: why.get(name, "not among the modules known to be pure") for name in impure} == {}


def test_the_modules_known_to_be_pure_are_none_of_those_known_not_to_be() -> None:
    assert not set(PURE.split()) & set(words(IMPURE))


@EACH_OF_THE_CORE
def test_the_core_calls_nothing_that_reaches_outside(module: Module) -> None:
    called = [node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    methods = [(f.lineno, f.attr, words(IMPURE_METHODS).get(f.attr)) for f in called if isinstance(f, ast.Attribute)]
    names = [(f.lineno, f.id, words(IMPURE_FUNCTIONS).get(f.id)) for f in called if isinstance(f, ast.Name)]

    assert [(f"line {line}: {name}()", why) for line, name, why in (*methods, *names) if why] == []


# -- who speaks with the world -------------------------------------------------------------------


@EACH
def test_the_environment_is_read_only_where_settings_are(module: Module) -> None:
    readers = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv", "expandvars"}
    found = [ast.unparse(n) for n in ast.walk(module.tree) if isinstance(n, ast.Attribute) and n.attr in readers]
    found += [
        alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "os.path")
        for alias in node.names
        if alias.name in readers
    ]

    assert found == [] or module.name in ("settings", "whereabouts")


@EACH
def test_only_the_command_line_prints_asks_and_exits(module: Module) -> None:
    endings = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "os.abort", "SystemExit", "breakpoint"}
    called = [ast.unparse(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    raised = [ast.unparse(node.exc) for node in ast.walk(module.tree) if isinstance(node, ast.Raise) and node.exc]

    assert [name for name in (*called, *raised) if name in endings] == [] or module.name == "cli"


@EACH
def test_the_wall_clock_is_asked_only_for_what_is_written_down(module: Module) -> None:
    asked = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
    asked |= {"time.localtime", "time.gmtime"}
    names = [ast.unparse(node) for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)]

    assert [name for name in names if name in asked] == [] or module.name in WALL_CLOCK


# -- how it reads --------------------------------------------------------------------------------


@EACH
def test_every_module_says_first_what_it_is(module: Module) -> None:
    assert ast.get_docstring(module.tree)


def test_a_function_fits_a_screen_or_has_a_reason() -> None:
    lengths = {
        f"{module.name}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for module in MODULES.values()
        for function in functions(module)
    }

    long = {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES}
    assert {name: lines for name, lines in long.items() if name not in LONG} == {}
    assert set(LONG) == set(long)


# -- start-up ------------------------------------------------------------------------------------

SLOW = ("pydantic", "rich", "rich.progress", "rich.markdown", "httpx", "httpcore", "qdrant_client", "numpy", "grpc")
LOADED = """
import sys
from docmind_backup.cli import main
code = main(sys.argv[1:])
print(*(name for name in sys.modules if name in {names!r}), file=sys.stderr)
sys.exit(code)
"""


def loaded_by(*arguments: str) -> set[str]:
    """Those of SLOW that a process loads that runs this command line."""
    command = [sys.executable, "-c", LOADED.format(names=SLOW), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("line", ["--help", "--version", "create --help", "verify --help"])
def test_help_waits_for_no_library(line: str) -> None:
    assert loaded_by(*line.split()) == set()


def test_what_asks_no_server_does_not_wait_for_the_libraries_that_would(tmp_path: Path) -> None:
    (tmp_path / "data" / "backups").mkdir(parents=True)

    assert loaded_by("list", "-C", str(tmp_path)) == {"rich"}
    assert loaded_by("list", "-C", str(tmp_path), "--json") == set()
    assert loaded_by("prune", "-C", str(tmp_path), "--dry-run", "--keep-last", "3") == {"pydantic", "rich"}
