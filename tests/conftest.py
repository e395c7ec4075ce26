"""Fixtures every test may use: a clean environment, a stand-in Qdrant, a v2 environment, the command line."""

from __future__ import annotations

import compileall
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from tests.catalogs import backups
from tests.environments import DocMindV2, build_v2
from tests.standin import StandIn

import docmind_backup
from docmind_backup.cli import main

settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")
"""No test has a time limit: machines are shared."""

SHELL = ("DOCMIND_", "QDRANT_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def pytest_configure(config: pytest.Config) -> None:
    """Signals are heard, by what the tests start too: a shell switches Ctrl-C off for what it puts into the background,
    and `nohup` the hang-up.

    And the package is compiled once, as pip does: hundreds of processes are started from it, and where
    PYTHONDONTWRITEBYTECODE is set each of them would compile it again.
    """
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(docmind_backup.__file__).parent, quiet=2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ anew: read what changed")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's own shell reaches a test."""
    for name in list(os.environ):
        if name.startswith(SHELL):
            monkeypatch.delenv(name)
    for name, value in {"TZ": "UTC", "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def env(tmp_path: Path, server: StandIn) -> DocMindV2:
    """A v2 environment whose collections are on the stand-in."""
    return build_v2(tmp_path / "docmind", server)


@pytest.fixture
def offline(tmp_path: Path) -> DocMindV2:
    """A v2 environment without a Qdrant server: its backups are of its deployment id alone."""
    return build_v2(tmp_path / "docmind", analytics=False)


@dataclass(frozen=True, slots=True)
class Result:
    """What one command line came to."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run `docmind-backup ARGS` through `main()` and read its exit code, stdout and stderr."""

    def run(*args: object) -> Result:
        capfd.readouterr()
        code = main([str(a) for a in args])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def first(cli: Cli, offline: DocMindV2) -> Path:
    """One small backup of `offline`, made by the command line; its scope is the deployment id."""
    assert cli("create", "-C", offline.project, "--only", "identity", "--quiet").code == 0
    (found,) = backups(offline.backups)
    return found
