"""No key and no secret leaves the settings, but the API key in its header, for Qdrant alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import certifi
import pytest
from tests.conftest import Cli, Result
from tests.environments import DocMindV2, build_v2
from tests.standin import StandIn

from docmind_backup import operations
from docmind_backup.compose import compose
from docmind_backup.connections import Connections, Timeouts
from docmind_backup.errors import BackupError, QdrantError
from docmind_backup.qdrant import connect

API_KEY = "api-Key_that/nobody+may=see"
HMAC_SECRET = "hmac-Secret_that/nobody+may=see"
IMAGE_KEY = base64.b64encode(b"image-key nobody may see, 32 b..").decode()
SECRETS = {
    "DOCMIND_DATABASE__QDRANT_API_KEY": API_KEY,
    "DOCMIND_HASHING__HMAC_SECRET": HMAC_SECRET,
    "DOCMIND_IMG_AES_KEY_BASE64": IMAGE_KEY,
}


def disguises(secret: str) -> set[bytes]:
    """The secret and what it looks like in a URL, in JSON, in base64 and in hex."""
    raw = secret.encode()
    return {
        raw,
        quote(secret).encode(),
        quote(secret, safe="").encode(),
        json.dumps(secret).strip('"').encode(),
        secret.replace("/", "\\/").encode(),
        base64.b64encode(raw).rstrip(b"="),
        raw.hex().encode(),
    }


def assert_no_secret(said: str | bytes, where: object) -> None:
    data = said if isinstance(said, bytes) else said.encode(errors="surrogateescape")
    for name, secret in SECRETS.items():
        for disguise in disguises(secret):
            assert disguise not in data, f"{name} is in {where}"


def assert_no_secret_below(root: Path) -> None:
    """Neither in a file (but a wanted `.env`) nor in a name."""
    for path in root.rglob("*"):
        assert_no_secret(os.fsencode(path), path)
        if path.is_file() and path.name != ".env":
            assert_no_secret(path.read_bytes(), path)


# -- an environment with secrets -----------------------------------------------------------------


@pytest.fixture
def locked() -> Iterator[StandIn]:
    with StandIn(api_key=API_KEY) as stand_in:
        yield stand_in


@pytest.fixture
def project(tmp_path: Path, locked: StandIn) -> DocMindV2:
    """Encrypted artifacts too: what is said of them must not say their key."""
    env = build_v2(tmp_path / "docmind", locked)
    (env.artifacts / f"{'0' * 64}.webp.enc").write_bytes(b"encrypted")
    return env


@pytest.fixture(params=[".env", "environment"])
def env(request: pytest.FixtureRequest, project: DocMindV2, monkeypatch: pytest.MonkeyPatch) -> DocMindV2:
    set_secrets(project, request.param, monkeypatch)
    return project


def set_secrets(env: DocMindV2, where: str, monkeypatch: pytest.MonkeyPatch, **others: str) -> None:
    """In `.env` or in the environment; there `.env` has none of them at all."""
    kept = [line for line in env.env_file.read_text().splitlines() if line.partition("=")[0] not in SECRETS]
    secrets = SECRETS | others
    if where == ".env":
        kept += [f"{name}='{value}'" for name, value in secrets.items()]
    else:
        for name, value in secrets.items():
            monkeypatch.setenv(name, value)
    env.env_file.write_text("".join(f"{line}\n" for line in kept))


def assert_only_in_its_header(server: StandIn) -> None:
    assert server.requests
    for request in server.requests:
        assert_no_secret(f"{request.path}?{request.query}", request)
        assert_no_secret(repr({name: value for name, value in request.headers.items() if name != "api-key"}), request)


# -- when all goes well --------------------------------------------------------------------------


@pytest.mark.parametrize("include", ["--include-env", "--no-include-env"])
def test_no_command_lets_a_secret_out(include: str, cli: Cli, env: DocMindV2, locked: StandIn) -> None:
    here = ("-C", env.project)
    commands = [
        ("create", *here, include, "--include-logs", "-v"),
        ("create", *here, include, "--json"),
        ("create", *here, include, "--dry-run", "-v"),
        ("create", *here, "--dry-run", "--json"),
        ("list", *here),
        ("list", *here, "--json"),
        ("show", "latest", *here),
        ("show", "latest", *here, "--json"),
        ("leftovers", *here),
        ("leftovers", *here, "--json"),
        ("verify", "latest", *here),
        ("verify", "--all", *here, "--json"),
        ("restore-plan", "latest", *here),
        ("restore-plan", "latest", *here, "--json"),
        ("restore-plan", "latest", *here, "--script"),
        ("show-config", *here),
        ("show-config", *here, "--json"),
        ("prune", *here, "--keep-last", "1"),
    ]

    for command in commands:
        result = cli(*command)
        assert result.code in (0, 3), (command, result.err)
        assert_no_secret(result.out + result.err, command)

    assert_no_secret_below(env.backups)
    stored = [path for path in env.backups.rglob(".env") if path.is_file()]
    assert bool(stored) == (include == "--include-env")
    assert all(path.read_bytes() == env.env_file.read_bytes() for path in stored)
    assert_only_in_its_header(locked)
    assert {r.headers.get("api-key") for r in locked.requests} == {API_KEY}
    assert not any("authorization" in r.headers for r in locked.requests)


def test_a_configured_key_is_shown_as_set_and_not_as_what_it_is(cli: Cli, env: DocMindV2) -> None:
    shown = {row["name"]: row for row in cli("show-config", "-C", env.project, "--json").json()}

    for name in SECRETS:
        assert shown[name]["value"] == "********"
        assert shown[name]["origin"] in (".env", "environment")


def test_fingerprints_tell_a_key_from_another_and_two_backups_nothing(cli: Cli, env: DocMindV2) -> None:
    prints = []
    for _ in range(2):
        assert cli("create", "-C", env.project, "--only", "identity").code == 0
        prints.append(cli("show", "latest", "-C", env.project, "--json").json()["record"]["key_fingerprints"])

    first, second = prints
    assert first.keys() == second.keys() >= {"kdf", "salt", "image_key", "hmac_secret"}
    assert not {first[name] for name in ("salt", "image_key", "hmac_secret")} & set(second.values())
    with compose(env.project, {}, warn=pytest.fail) as run:
        assert operations.key_fingerprints(run.job.environment, first["salt"]) == first


RECORDING_CURL = """#!/bin/sh
printf '%s\\n' "$@" >>"$TOLD"
exec {} "$@"
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Runs a command as a person would, the key in the environment; gives what any user sees of curl's arguments."""
    curl, told = shutil.which("curl"), tmp_path / "arguments"
    if not curl:
        pytest.skip("curl is not here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "curl").write_text(RECORDING_CURL.format(curl))
    (tmp_path / "bin" / "curl").chmod(0o700)
    for name in ("QDRANT_API_KEY", "DOCMIND_DATABASE__QDRANT_API_KEY"):
        monkeypatch.setenv(name, API_KEY)
    place = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TOLD": str(told)}

    def run(command: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(
            ["sh", "-ec", command], cwd=folder, env=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return told.read_text()

    return run


def test_the_readme_restores_collections_without_showing_the_key(
    cli: Cli, project: DocMindV2, locked: StandIn, shell: Callable[..., str]
) -> None:
    assert cli("create", "-C", project.project, "--only", "identity,qdrant").code == 0
    (backup,) = project.backups.glob("*backup_*")
    lines = (backup / "README.md").read_text().splitlines()
    start = next(at for at, line in enumerate(lines) if "| curl" in line)
    for name in (project.text_collection, project.image_collection):
        locked.delete_collection(name)

    seen = shell("\n".join(lines[start:]), backup)

    assert (locked.count(project.text_collection), locked.count(project.image_collection)) == (25, 7)
    assert seen.count("snapshots/upload") == 2
    assert_no_secret(seen, "the process list")


def test_the_command_for_a_candidate_does_not_show_the_key(
    cli: Cli, project: DocMindV2, locked: StandIn, shell: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_BACKUP_LATE_WAIT", "0")
    text = project.text_collection
    locked.faults.hang_up("POST", f"/{text}/snapshots$")
    made = ("create", "-C", project.project, "--collection", text, "--only", "identity,qdrant", "--json")
    assert cli(*made).code == 3
    late = locked.create_snapshot(text)
    (candidate,) = cli(*made).json()["left_on_server"]
    assert (candidate["snapshot"], list(locked.snapshots(text))) == (late, [late])

    seen = shell(candidate["command"])

    assert locked.snapshots(text) == {}
    assert_no_secret(seen, "the process list")


# -- when something goes wrong -------------------------------------------------------------------

Mishap = Callable[[StandIn], None]


def wrong_key(server: StandIn) -> None:
    server.api_key = "another"


def read_only_key(server: StandIn) -> None:
    server.api_key, server.read_only_key = "another", API_KEY


def server_down(server: StandIn) -> None:
    server.close()


def redirect(server: StandIn) -> None:
    server.faults.redirect("GET", "/cluster", f"http://127.0.0.1:9/?api-key={API_KEY}", times=None)


def server_repeats_the_key(server: StandIn) -> None:
    server.faults.refuse("*", "/collections", 500, f"panicked at key {API_KEY}\n of {API_KEY}", times=None)


def server_repeats_the_key_later(server: StandIn) -> None:
    server.faults.refuse("POST", "/snapshots$", 500, f"cannot write with {API_KEY}", times=None)


def server_forbids_with_the_key(server: StandIn) -> None:
    server.faults.refuse("POST", "/count$", 403, f"Forbidden for {API_KEY}", times=None)


def proxy_page_with_the_key(server: StandIn) -> None:
    page = f"<html>502 Bad Gateway, api-key: {API_KEY}</html>".encode()
    server.faults.answer("*", "/collections", 502, {"content-type": "text/html"}, page, times=None)


def nonsense_with_the_key(server: StandIn) -> None:
    body = f'{{"result": {{"count": "{API_KEY}"}}, "status": "ok", "time": 0}}'.encode()
    server.faults.answer("POST", "/count$", 200, {"content-type": "application/json"}, body, times=None)


def description_that_is_the_key(server: StandIn) -> None:
    body = json.dumps({"result": {"name": f"../{API_KEY}", "size": API_KEY}, "status": "ok"}).encode()
    server.faults.answer("POST", "/snapshots$", 200, {"content-type": "application/json"}, body, times=None)


def too_many_requests_with_the_key(server: StandIn) -> None:
    server.faults.refuse("POST", "/count$", 429, f"slow down {API_KEY}", {"retry-after": "7"}, times=None)


MISHAPS: tuple[Mishap, ...] = (
    wrong_key,
    read_only_key,
    server_down,
    redirect,
    server_repeats_the_key,
    server_repeats_the_key_later,
    server_forbids_with_the_key,
    proxy_page_with_the_key,
    nonsense_with_the_key,
    description_that_is_the_key,
    too_many_requests_with_the_key,
)


@pytest.mark.parametrize("mishap", MISHAPS, ids=lambda mishap: mishap.__name__)
def test_no_mishap_lets_the_key_out(
    mishap: Mishap, cli: Cli, project: DocMindV2, locked: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_secrets(project, "environment", monkeypatch)
    monkeypatch.setenv("DOCMIND_BACKUP_LATE_WAIT", "0")
    here, little = ("-C", project.project), ("--only", "qdrant,identity")
    assert cli("create", *here, *little).code == 0
    mishap(locked)

    results: dict[str, Result] = {
        "a backup without it": cli("create", *here, *little, "-v"),
        "a failure": cli("create", *here, *little, "-v", "--qdrant-snapshot"),
        "a failure as JSON": cli("create", *here, *little, "--json", "--qdrant-snapshot"),
        "what the backup says": cli("show", "--json", *here, "latest"),
        "a restore plan": cli("restore-plan", *here, "latest"),
        "a restore plan as JSON": cli("restore-plan", *here, "--json", "latest"),
    }

    assert [result.code for result in list(results.values())[:3]] == [3, 15, 15]
    for where, result in results.items():
        assert_no_secret(result.out + result.err, where)
        assert "Traceback" not in result.err
    assert_no_secret_below(project.backups)
    assert_only_in_its_header(locked)


@pytest.mark.parametrize("mishap", MISHAPS, ids=lambda mishap: mishap.__name__)
def test_not_even_a_traceback_would_have_it(mishap: Mishap, project: DocMindV2, locked: StandIn) -> None:
    mishap(locked)
    errors: list[QdrantError] = []
    with connect(locked.url, api_key=API_KEY) as server:
        for call in (server.describe, server.count, server.create_snapshot, server.snapshots):
            try:
                call(project.text_collection)
            except QdrantError as error:
                errors.append(error)
        try:
            server.peers()
        except QdrantError as error:
            errors.append(error)

    assert errors
    for error in errors:
        assert_no_secret("".join(traceback.format_exception(error)), error)
        assert_no_secret(f"{error!r} {error.hint} {server!r}", error)


@pytest.mark.parametrize("where", [".env", "environment"])
@pytest.mark.parametrize("key", [f"{API_KEY} with a space", f"{API_KEY}\nX-Other: 1", f"{API_KEY}ü"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(
    key: str, where: str, cli: Cli, project: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_secrets(project, where, monkeypatch, DOCMIND_DATABASE__QDRANT_API_KEY=key)

    made = cli("create", "-C", project.project, "-v")

    assert made.code == 2
    assert "DOCMIND_DATABASE__QDRANT_API_KEY" in made.err
    assert_no_secret(made.out + made.err, "the refusal")


@pytest.mark.parametrize("host", ["127.0.0.1:9", "qdrant.example:6333"])
@pytest.mark.parametrize("command", ["create", "show-config", "list", "leftovers"])
def test_a_password_in_the_address_is_not_repeated(
    command: str, host: str, cli: Cli, project: DocMindV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", f"http://user:{API_KEY}@{host}".replace("/nobody", "-nobody"))

    result = cli(command, "-C", project.project)

    assert result.code in (0, 2)
    assert "nobody" not in result.out + result.err
    assert not any(b"nobody" in path.read_bytes() for path in project.backups.rglob("*") if path.is_file())


# -- proxies -------------------------------------------------------------------------------------


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Every variable that names a proxy names this one, which answers nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.lower(), url)
        yield listener


def test_a_proxy_in_the_environment_hears_nothing(
    cli: Cli, project: DocMindV2, locked: StandIn, proxy: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_secrets(project, "environment", monkeypatch)
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_TIMEOUT", "5")

    made = cli("create", "-C", project.project)
    planned = cli("restore-plan", "-C", project.project)
    locked.close()
    without = cli("create", "-C", project.project)

    assert (made.code, planned.code, without.code) == (0, 0, 3), made.err
    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_an_interrupted_run_says_no_secret(env: DocMindV2, locked: StandIn) -> None:
    """Whatever is raised in the middle of a request: its traceback has the key nowhere."""

    def interrupt(_: object) -> None:
        raise BackupError("interrupted")

    with (
        compose(env.project, {}, warn=pytest.fail, ask_qdrant=True) as run,
        pytest.raises(BackupError, match="interrupted") as raised,
    ):
        operations.create(run.job, on_event=interrupt)
    assert_no_secret("".join(traceback.format_exception(raised.value)), "a traceback")
    assert_no_secret(repr(run.job), "the job")


# -- https ---------------------------------------------------------------------------------------

CERTIFICATE = Path(__file__).parent / "data" / "tls" / "localhost.pem"
"""Of localhost, signed by itself, with its key; nobody trusts it. Made with openssl for a hundred years."""


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[DocMindV2, StandIn]]:
    with StandIn(api_key=API_KEY, certificate=CERTIFICATE) as server:
        env = build_v2(tmp_path / "docmind", server)
        set_secrets(env, "environment", monkeypatch)
        yield env, server


def test_a_certificate_that_nobody_vouches_for_gets_no_key(cli: Cli, secure: tuple[DocMindV2, StandIn]) -> None:
    """Whoever answers there may be anybody."""
    env, server = secure

    made = cli("create", "-C", env.project, "--json")
    required = cli("create", "-C", env.project, "--qdrant-snapshot")

    assert (made.code, required.code) == (3, 15)
    for said in (made.json()["omissions"][0]["detail"], required.err):
        assert f"the certificate of {server.url} is refused" in said
        assert "SSL_CERT_FILE" in said
        assert "start it" not in said
    assert_no_secret(made.out + made.err + required.out + required.err, "what was said")
    assert server.requests == []


def test_each_connection_looks_at_the_certificate(secure: tuple[DocMindV2, StandIn]) -> None:
    """For questions, downloads and the official client, each of which has one of its own."""
    _, server = secure
    connections = Connections(server.url, API_KEY, Timeouts(connect=60, request=60, create=60, stop=60))
    asks: list[Callable[[], object]] = [
        lambda: connections.asking.get(server.url),
        lambda: connections.bringing.get(server.url),
        lambda: connections.qdrant(60).get_collections(),
    ]

    with closing(connections):
        for ask in asks:
            with pytest.raises(Exception, match="certificate verify failed"):
                ask()

    assert server.requests == []


def test_over_https_a_certificate_that_is_vouched_for_is_enough(
    cli: Cli, secure: tuple[DocMindV2, StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    env, server = secure
    monkeypatch.setattr(certifi, "where", lambda: str(CERTIFICATE))

    made = cli("create", "-C", env.project, "--json")

    assert made.code == 0, made.err
    assert {request.headers.get("api-key") for request in server.requests} == {API_KEY}


def test_a_private_authority_is_trusted_where_the_shell_names_it(
    cli: Cli, secure: tuple[DocMindV2, StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    env, server = secure
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))

    made = cli("create", "-C", env.project, "--json")

    assert made.code == 0, made.err
    assert server.requests


def test_a_certificate_of_another_host_is_none(
    cli: Cli, secure: tuple[DocMindV2, StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    env, server = secure
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", server.url.replace("127.0.0.1", "127.1"))
    monkeypatch.setenv("DOCMIND_SECURITY__ALLOW_REMOTE_ENDPOINTS", "true")

    made = cli("create", "-C", env.project, "--json")

    assert made.code == 3
    assert "renew the certificate on the server" in made.json()["omissions"][0]["detail"]
    assert server.requests == []


def test_https_where_http_is_spoken_says_so(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn() as server:
        env = build_v2(tmp_path / "docmind", server)
        monkeypatch.setenv("DOCMIND_DATABASE__QDRANT_URL", server.url.replace("http:", "https:"))

        made = cli("create", "-C", env.project, "--json")

    assert made.code == 3
    assert "it may be http:// there" in made.json()["omissions"][0]["detail"]
