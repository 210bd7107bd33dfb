"""The commands as other people's scripts use them: words, output, exit codes."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from cryptography import x509

from tests.programs import MESHCA, TRUST_DOMAIN, Agent, Program, ProgramFailed, Server, meshca

WEB = f"spiffe://{TRUST_DOMAIN}/ns/a/sa/web"


@pytest.fixture
async def server(short_tmp: Path) -> AsyncIterator[Server]:
    async with Server(short_tmp) as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """One server for all who change nothing of it."""
    with tempfile.TemporaryDirectory(prefix="meshca-", dir="/tmp") as directory:
        running = Server(Path(directory))
        asyncio.run(running.start())
        yield running
        running.stop()


def test_help_is_there_for_every_command_and_imports_nothing_heavy() -> None:
    commands = ["", "init", "server", "agent", "token create", "bundle show", "ledger list", "ledger show"]
    commands += [f"authority {step}" for step in ("list", "show", "prepare", "activate", "taint", "revoke", "prune")]
    for command in [*commands, "rotate root", "rotate status", "rotate abort", "status", "envoy-bootstrap", "demo"]:
        assert "--help" in meshca(*command.split(), "--help")
    probe = "import sys, meshca.cli.app; print([m for m in ('grpc', 'sqlalchemy', 'cryptography') if m in sys.modules])"
    done = subprocess.run([MESHCA[0], "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version() -> None:
    assert re.fullmatch(r"meshca \d+\.\d+\.\d+\n", meshca("--version"))


def test_init_says_what_it_made_and_warns_of_a_generated_passphrase(tmp_path: Path) -> None:
    command = [*MESHCA, "init", "--data-dir", str(tmp_path / "ca"), "--trust-domain", "example.org"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "meshca: warning: no passphrase was given" in done.stderr
    assert re.search(r"^root +[0-9a-f]{40}, until \d{4}-", done.stdout, re.MULTILINE)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 5
    assert again.stderr.startswith("meshca: ")
    assert "is not empty" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--trust-domain", "Example.Org"], 3, "trust domain 'Example.Org' has a character outside"),
        (["--trust-domain", "a.test", "--key-type", "dsa"], 3, "--key-type 'dsa' is not a key type: use one of p256"),
        (["--trust-domain", "a.test", "--key-type", "rsa2048"], 3, "key type rsa2048 cannot be a CA's"),
        (["--trust-domain", "a.test", "--root-ttl", "long"], 3, "--root-ttl: 'long' is not a duration"),
        (["--trust-domain", "a.test", "--issuer-ttl", "4000d"], 3, "must be positive and shorter than root-ttl"),
        (["--trust-domain", "a.test", "--issuer-ttl", "1ms"], 3, "is too short to issue anything: at least 1s"),
        (["--trust-domain", "a.test", "--root-ttl", "99999999d"], 3, "is too long: at most 36500d"),
        ([], 2, "--trust-domain"),
    ],
)
def test_init_refuses_bad_input(tmp_path: Path, arguments: list[str], status: int, words: str) -> None:
    # usage errors come in a box that may be broken over lines
    said = " ".join(meshca("init", "--data-dir", tmp_path / "ca", *arguments, status=status).split())
    assert words in said
    assert list(tmp_path.iterdir()) == []


def test_init_where_nothing_can_be_made_says_where_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = meshca("init", "--data-dir", tmp_path / "file" / "ca", "--trust-domain", "a.test", status=3)
    assert said == (
        f"meshca: data directory {tmp_path}/file/ca cannot be made: {tmp_path}/file: File exists;"
        " choose a place that can be written\n"
    )


def test_what_init_says_comes_next_is_the_whole_command(tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a passphrase for tests")
    passphrase.chmod(0o600)
    said = meshca("init", "--data-dir", tmp_path / "ca", "--trust-domain", "a.test", "--passphrase-file", passphrase)
    assert f"meshca server --data-dir {tmp_path}/ca --passphrase-file {passphrase}\n" in said


def test_a_server_without_state_ends_with_one_line(tmp_path: Path) -> None:
    said = meshca("server", "--data-dir", tmp_path, status=4)
    assert said == f"meshca: {tmp_path} holds no meshca state: run `meshca init` or restore a backup\n"
    assert list(tmp_path.iterdir()) == []


def test_unknown_configuration_keys_are_named(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text('tokenlisten = "x"\n[leaf]\nmaxttl = "1h"\nmax_ttl = "100d"\n')
    said = meshca("server", "--data-dir", tmp_path, "--config", tmp_path / "server.toml", status=3)
    assert "tokenlisten: unknown key" in said
    assert "leaf.maxttl: unknown key" in said


def test_a_promise_that_rotation_cannot_keep_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text('[issuer]\nttl = "3d"\n')
    said = meshca("server", "--data-dir", tmp_path, "--config", tmp_path / "server.toml", status=3)
    assert "leaf.max_ttl is 1 day, 0:00:00, but rotation guarantees only 12:00:00" in said
    assert "lower leaf.max_ttl or raise issuer.ttl" in said


def test_commands_without_a_server_say_so(tmp_path: Path) -> None:
    said = meshca("ledger", "list", "--data-dir", tmp_path, status=7)
    assert said == f"meshca: no server is running there: {tmp_path / 'admin.sock'} does not exist\n"
    assert "give --data-dir" in meshca("bundle", "show", status=3)


def test_an_admin_socket_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = meshca("bundle", "show", "--admin", tmp_path / "file", status=7)
    assert said == f"meshca: no server answers on {tmp_path}/file: Connection refused\n"
    assert "bytes long: at most 107" in meshca("bundle", "show", "--admin", tmp_path / ("a" * 120), status=3)


def test_a_list_in_the_environment_is_json_and_the_message_names_the_variable(tmp_path: Path) -> None:
    environment = {"MESHCA_JWT_ISSUERS": "[{issuer: x}]"}
    said = meshca("server", "--data-dir", tmp_path, environment=environment, status=3)
    assert said == "meshca: configuration: MESHCA_JWT_ISSUERS in the environment: write it as JSON\n"


async def test_a_ready_file_that_cannot_be_written_ends_the_server_with_one_line(short_tmp: Path) -> None:
    meshca("init", "--data-dir", short_tmp / "ca", "--trust-domain", TRUST_DOMAIN)
    listen = [word for name in ("token", "mtls", "http") for word in (f"--{name}-listen", "127.0.0.1:0")]
    said = meshca("server", "--data-dir", short_tmp / "ca", *listen, "--ready-file", short_tmp / "no" / "x", status=3)
    assert said == f"meshca: ready_file {short_tmp}/no/x: cannot be written: No such file or directory\n"


def test_grpcs_own_words_are_not_printed_where_a_port_is_taken(shared: Server, short_tmp: Path) -> None:
    meshca("init", "--data-dir", short_tmp / "ca2", "--trust-domain", TRUST_DOMAIN)
    taken = ["--token-listen", shared.facts["token"], "--mtls-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    said = meshca("server", "--data-dir", short_tmp / "ca2", *taken, status=7)
    assert said == f"meshca: cannot listen on {shared.facts['token']}: the address is in use or not ours\n"


def test_the_ready_file_tells_the_actual_addresses(shared: Server) -> None:
    facts = shared.facts
    assert set(facts) == {"token", "mtls", "http", "admin", "pid"}
    assert all(re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", facts[name]) for name in ("token", "mtls", "http"))
    assert stat.S_ISSOCK(Path(facts["admin"]).stat().st_mode)
    assert stat.S_IMODE(Path(facts["admin"]).stat().st_mode) == 0o600
    assert shared.process is not None
    assert facts["pid"] == shared.process.pid


async def test_token_bundle_ledger_and_authority(server: Server, tmp_path: Path) -> None:
    token = meshca("token", "create", "--data-dir", server.data_dir, "--spiffe-id", WEB, "--ttl", "5m")
    assert re.fullmatch(r"mjt_[A-Za-z0-9_-]{43}\n", token)
    described = json.loads(meshca("token", "create", "--data-dir", server.data_dir, "--spiffe-id", WEB, "-o", "json"))
    assert described["spiffe_id"] == WEB
    elsewhere = meshca("bundle", "show", "--admin", server.facts["admin"])
    assert x509.load_pem_x509_certificates(elsewhere.encode())
    assert elsewhere == server.bundle()
    document = json.loads(meshca("bundle", "show", "--data-dir", server.data_dir, "--format", "spiffe"))
    assert [key["use"] for key in document["keys"]] == ["x509-svid"]
    assert document["spiffe_sequence"] == 1
    records = server.ledger()
    assert [record["kind"] for record in records] == ["server", "issuer", "root"]
    serial = records[0]["serial"]
    shown = json.loads(meshca("ledger", "show", serial[:12], "--data-dir", server.data_dir, "-o", "json"))
    assert shown == records[0]
    assert serial in meshca("ledger", "list", "--data-dir", server.data_dir, "--serial", serial[:8].upper())
    assert server.ledger("--since", "1h") == records
    assert server.ledger("--until", "1h") == []
    assert server.ledger("--valid-at", "now") == records
    authorities = json.loads(meshca("authority", "list", "--data-dir", server.data_dir, "-o", "json"))
    assert [(a["kind"], a["state"]) for a in authorities["authorities"]] == [("root", "active"), ("issuer", "active")]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["token", "create", "--spiffe-id", "spiffe://other.test/x"], 3, "is not of this trust domain"),
        (["token", "create", "--spiffe-id", f"spiffe://{TRUST_DOMAIN}"], 3, "names a trust domain"),
        (["token", "create", "--spiffe-id", f"spiffe://{TRUST_DOMAIN}/meshca/server"], 3, "is reserved"),
        (["token", "create", "--spiffe-id", WEB, "--ttl", "30d"], 3, "a join token lives between 1s and 7d"),
        (["token", "create", "--spiffe-id", WEB, "--ttl", "soon"], 3, "--ttl: 'soon' is not a duration"),
        (["ledger", "show", "abcdef0123"], 4, "the ledger has no such certificate"),
        (["ledger", "list", "--serial", "xyz"], 3, "serial"),
        (["ledger", "show", ""], 3, "serial is empty"),
        (["ledger", "list", "--spiffe-id", "example.org/web"], 3, "does not start with spiffe://"),
        (["ledger", "list", "--since", "9999999d"], 3, "--since '9999999d' is no time"),
        (["ledger", "list", "--since", "yesterday"], 3, "--since 'yesterday' is no time"),
    ],
)
def test_commands_refuse_bad_input(shared: Server, arguments: list[str], status: int, words: str) -> None:
    assert words in meshca(*arguments, "--data-dir", shared.data_dir, status=status)


def test_a_second_server_on_the_same_state_or_port_is_refused(shared: Server, short_tmp: Path) -> None:
    said = meshca("server", "--data-dir", shared.data_dir, status=5)
    assert "is in use by another meshca server" in said
    other = short_tmp / "other"
    meshca("init", "--data-dir", other, "--trust-domain", "other.test")
    arguments = ["--token-listen", shared.facts["token"], "--mtls-listen", "127.0.0.1:0"]
    said = meshca("server", "--data-dir", other, *arguments, "--http-listen", "127.0.0.1:0", status=7)
    assert f"cannot listen on {shared.facts['token']}" in said


async def test_probes_and_metrics(server: Server, short_tmp: Path) -> None:
    async with httpx2.AsyncClient(base_url=f"http://{server.facts['http']}") as client:
        for probe in ("/livez", "/readyz", "/startupz"):
            assert (await client.get(probe)).status_code == 200
        async with Agent(server, short_tmp, WEB):
            text = (await client.get("/metrics")).text
    assert re.search(r"^citadel_server_csr_count 1\.0$", text, re.MULTILINE)
    assert re.search(r"^citadel_server_success_cert_issuance_count 1\.0$", text, re.MULTILINE)
    assert re.search(r'^grpc_server_handled_total\{grpc_code="OK".*SignCertificates.*\} 1\.0$', text, re.MULTILINE)


async def test_an_agent_writes_files_that_openssl_accepts(server: Server, short_tmp: Path) -> None:
    output = short_tmp / "out"
    async with Agent(server, short_tmp, WEB, "--output-dir", str(output)) as agent:
        assert agent.facts["spiffe_id"] == WEB
        names = ("root-cert.pem", "cert-chain.pem")
        root, chain = (str(output / name) for name in names)
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", root]
        verified = subprocess.run([*command, "-untrusted", chain, chain], capture_output=True, text=True, check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert stat.S_IMODE((output / "key.pem").stat().st_mode) == 0o600


async def test_workers_share_the_ports_and_their_counts_are_one(short_tmp: Path) -> None:
    async with Server(short_tmp, options=("--workers", "2")) as server:
        for number in range(2):
            async with Agent(server, short_tmp, f"{WEB}{number}"):
                pass
        async with httpx2.AsyncClient(base_url=f"http://{server.facts['http']}") as client:
            async with asyncio.timeout(20):
                while "citadel_server_success_cert_issuance_count 2.0" not in (await client.get("/metrics")).text:
                    await asyncio.sleep(0.1)
            assert (await client.get("/readyz")).status_code == 200
        assert sum(record["kind"] == "server" for record in server.ledger()) >= 2
        assert await asyncio.to_thread(server.stop) == 0


async def test_workers_take_no_module_from_the_working_directory(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short_tmp / "typer.py").write_text("raise SystemExit('not this one')")
    command = (sys.executable, "-P", *MESHCA[1:])  # the server itself is started as its script starts it
    monkeypatch.chdir(short_tmp)
    subprocess.run(
        [*command, "init", "--data-dir", "ca", "--trust-domain", TRUST_DOMAIN], check=True, capture_output=True
    )
    listen = [word for name in ("token", "mtls", "http") for word in (f"--{name}-listen", "127.0.0.1:0")]
    server = subprocess.Popen([*command, "server", "--data-dir", "ca", "--workers", "2", *listen, "--ready-file", "r"])
    try:
        async with asyncio.timeout(30):
            while not (short_tmp / "r").exists():
                assert server.poll() is None
                await asyncio.sleep(0.05)
    finally:
        server.terminate()
    assert await asyncio.to_thread(server.wait, 20) == 0


async def test_a_worker_that_dies_is_replaced(short_tmp: Path) -> None:
    async with Server(short_tmp, options=("--workers", "2")) as server:
        children = Path(f"/proc/{server.facts['pid']}/task/{server.facts['pid']}/children").read_text().split()
        subprocess.run(["kill", "-9", *children], check=False)
        async with asyncio.timeout(30):
            while True:
                try:
                    async with Agent(server, short_tmp, WEB):
                        break
                except ProgramFailed:
                    await asyncio.sleep(0.2)
        assert server.events("worker_ended")


async def test_a_signal_to_the_whole_group_leaves_it_to_the_parent_to_end_the_workers(short_tmp: Path) -> None:
    """systemd sends SIGTERM to every process of a service, a terminal SIGINT: calls under way would be cut off."""
    async with Server(short_tmp, options=("--workers", "2")) as server:
        listing = Path(f"/proc/{server.facts['pid']}/task/{server.facts['pid']}/children")
        workers = listing.read_text().split()
        for number in ("-TERM", "-INT"):
            subprocess.run(["kill", number, *workers], check=True)
        async with (
            Agent(server, short_tmp, WEB),
            httpx2.AsyncClient(base_url=f"http://{server.facts['http']}") as client,
        ):
            async with asyncio.timeout(20):
                while "citadel_server_success_cert_issuance_count 1.0" not in (await client.get("/metrics")).text:
                    await asyncio.sleep(0.1)
        assert listing.read_text().split() == workers
        assert await asyncio.to_thread(server.stop) == 0
        assert not server.events("worker_ended")


async def test_an_agent_with_a_bad_token_says_why_it_cannot_start(shared: Server, short_tmp: Path) -> None:
    bundle, token = short_tmp / "root.pem", short_tmp / "token"
    bundle.write_text(shared.bundle())
    token.write_text("mjt_" + "A" * 43)
    where = ["--server", shared.facts["token"], "--trust-bundle", str(bundle), "--token-file", str(token)]
    agent = Program("agent", short_tmp, ["agent", *where, "--socket", str(short_tmp / "run" / "a.sock")])
    agent.process = agent._spawn()
    async with asyncio.timeout(20):
        while "UNAUTHENTICATED" not in agent.log.read_text().upper():
            await asyncio.sleep(0.05)
    await asyncio.to_thread(agent.stop)
    assert "A" * 43 not in agent.log.read_text()
    assert "A" * 43 not in shared.log.read_text()
