"""`meshca init` and `meshca server`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from meshca.authority.ring import AuthorityRing
    from meshca.pki.keys import KeyAlgorithm

DATA_DIR = typer.Option(..., "--data-dir", envvar="MESHCA_DATA_DIR", help="The directory with keys and state.")
PASSPHRASE_FILE = typer.Option(
    None,
    "--passphrase-file",
    envvar="MESHCA_PASSPHRASE_FILE",
    help="A file with the passphrase of the private keys, for its owner only (mode 0600).",
)
_KEY_TYPES = "p256|p384|rsa3072|rsa4096"
_LISTEN = "HOST:PORT"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("init")(init)
    app.command("server")(server)


def init(
    data_dir: Path = DATA_DIR,
    trust_domain: str = typer.Option(..., "--trust-domain", envvar="MESHCA_TRUST_DOMAIN", help="Such as example.org."),
    key_type: str = typer.Option("p256", "--key-type", metavar=_KEY_TYPES, help="The root's key."),
    root_ttl: str = typer.Option(
        "3650d", "--root-ttl", metavar="DURATION", help="How long the root lives, such as 3650d."
    ),
    issuer_key_type: str = typer.Option(
        "p256", "--issuer-key-type", metavar=_KEY_TYPES, help="The first issuing CA's key."
    ),
    issuer_ttl: str = typer.Option(
        "30d", "--issuer-ttl", metavar="DURATION", help="How long the first issuing CA lives, such as 30d or 12h."
    ),
    root_cert: Path | None = typer.Option(
        None, "--root-cert", metavar="FILE", help="A root whose key stays elsewhere (PEM): it signs what is requested."
    ),
    ca_dir: Path | None = typer.Option(
        None,
        "--ca-dir",
        metavar="DIR",
        help="A CA in Istio's layout (cacerts, or tls.crt, tls.key, ca.crt) to take over.",
    ),
    config: Path | None = typer.Option(
        None, "--config", metavar="FILE", help="The server's TOML file: the root is that of the upstream it names."
    ),
    root_sha256: str | None = typer.Option(
        None, "--root-sha256", metavar="HEX", help="The fingerprint of that root, which its keepers tell you."
    ),
    passphrase_file: Path | None = PASSPHRASE_FILE,
) -> None:
    """Make a new certificate authority: its root, its first issuing CA and its data directory.

    With --root-cert it has no issuing CA yet: `meshca authority csr` writes the
    request for one. With --ca-dir root, chain and key are those in the directory.
    With --config the upstream authority signs, once the server runs; it is asked
    for its root now, which must be the one of --root-sha256.

    Private keys are encrypted with the passphrase in --passphrase-file or
    MESHCA_PASSPHRASE. Without either, one is generated into the data directory,
    which is for development only.
    """
    import os

    from meshca.cli.founding import founded_on
    from meshca.settings.sources import read_duration
    from meshca.spiffe.ids import TrustDomain
    from meshca.wiring.clock import SystemClock
    from meshca.wiring.data_dir import Founding, create_data_dir, read_passphrase

    founding = Founding(
        TrustDomain(trust_domain),
        _key_type("--key-type", key_type),
        read_duration("--root-ttl", root_ttl),
        _key_type("--issuer-key-type", issuer_key_type),
        read_duration("--issuer-ttl", issuer_ttl),
        *founded_on(root_cert, ca_dir, config, root_sha256),
    )
    passphrase = read_passphrase(passphrase_file, os.environ, None)
    stored = create_data_dir(data_dir, founding, passphrase, SystemClock())
    if passphrase is None:
        print(
            "meshca: warning: no passphrase was given; one was generated beside the keys it protects"
            f" ({data_dir / 'passphrase'}). For production give --passphrase-file or MESHCA_PASSPHRASE.",
            file=sys.stderr,
        )
    _tell_founded(stored.ring, data_dir, config, passphrase_file)


def _tell_founded(ring: AuthorityRing, data_dir: Path, config: Path | None, passphrase_file: Path | None) -> None:
    """What was made, and the command that comes next."""
    from meshca.authority.ring import AuthorityKind

    command = f"authority csr --data-dir {data_dir}"
    waits = (
        "the upstream authority signs it when the server runs"
        if config
        else f"with the server running, `meshca {command}`"
    )
    print(f"trust domain  {ring.trust_domain}")
    for kind, label in ((AuthorityKind.ROOT, "root"), (AuthorityKind.ISSUER, "issuing CA")):
        authority = ring.active(kind)
        found = f"none yet: {waits}" if authority is None else f"{authority.id}, until {authority.not_after:%Y-%m-%d}"
        print(f"{label:<12}  {found}")
    print(f"data          {data_dir}")
    options = {"--data-dir": data_dir, "--config": config, "--passphrase-file": passphrase_file}
    given = (f" {option} {value}" for option, value in options.items() if value is not None)
    print(f"next          meshca server{''.join(given)}")


def server(
    data_dir: Path = DATA_DIR,
    config: Path | None = typer.Option(
        None, "--config", envvar="MESHCA_CONFIG", help="A TOML file with further settings."
    ),
    token_listen: str | None = typer.Option(
        None, metavar=_LISTEN, help="For callers with tokens. Default: 0.0.0.0:15012. Port 0 takes a free one."
    ),
    mtls_listen: str | None = typer.Option(
        None, metavar=_LISTEN, help="For callers with certificates of ours. Default: 0.0.0.0:15013."
    ),
    http_listen: str | None = typer.Option(
        None, metavar=_LISTEN, help="For probes and metrics. Default: 127.0.0.1:15014."
    ),
    ready_file: Path | None = typer.Option(None, help="Written when serving: JSON with the addresses and the pid."),
    ca_dir: Path | None = typer.Option(
        None, metavar="DIR", help="A CA directory in Istio's layout, watched: what is new there is taken in."
    ),
    workers: int | None = typer.Option(None, help="Signing processes, 1 to 64. Default: 1, the server itself."),
    passphrase_file: Path | None = PASSPHRASE_FILE,
    log_format: str | None = typer.Option(
        None, metavar="auto|json|console", help="Default: auto, which is console on a terminal and else json."
    ),
    log_level: str | None = typer.Option(None, metavar="debug|info|warning|error", help="Default: info."),
) -> None:
    """Run the certificate authority. It never creates one: use `meshca init` first.

    Each flag is also a key of the configuration file, and an environment variable
    such as MESHCA_TOKEN_LISTEN.
    """
    from meshca.settings.server import ServerSettings
    from meshca.settings.sources import load_settings
    from meshca.wiring.server import run_server

    flags = {
        "data_dir": data_dir,
        "token_listen": token_listen,
        "mtls_listen": mtls_listen,
        "http_listen": http_listen,
        "ready_file": ready_file,
        "workers": workers,
        "authority": None if ca_dir is None else {"ca_dir": ca_dir},
        "passphrase_file": passphrase_file,
        "log_format": log_format,
        "log_level": log_level,
    }
    run_server(load_settings(ServerSettings, flags, config))


def _key_type(flag: str, value: str) -> KeyAlgorithm:
    from meshca.errors import invalid
    from meshca.pki.keys import CA_ALGORITHMS, KeyAlgorithm

    try:
        return KeyAlgorithm(value)
    except ValueError:
        names = ", ".join(algorithm.value for algorithm in CA_ALGORITHMS)
        raise invalid(f"{flag} {value!r} is not a key type: use one of {names}") from None
