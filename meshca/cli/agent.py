"""`meshca agent`."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("agent")(agent)


def agent(
    server: str | None = typer.Option(None, help="host:port of the server's token listener. Required."),
    trust_bundle: Path | None = typer.Option(None, help="PEM file with the roots that vouch for it. Required."),
    join_token: str | None = typer.Option(
        None, help="A single-use token. Better in MESHCA_AGENT_JOIN_TOKEN: other users can see command lines."
    ),
    token_file: Path | None = typer.Option(None, help="A file with a token that somebody else keeps fresh."),
    socket: Path | None = typer.Option(None, help="The Unix socket to serve Envoy's SDS on. Required."),
    socket_group: str | None = typer.Option(None, help="A group whose members may connect, too."),
    output_dir: Path | None = typer.Option(None, help="Write key.pem, cert-chain.pem and root-cert.pem there."),
    state_dir: Path | None = typer.Option(None, help="Where the identity is saved. Default: `state` by the socket."),
    key_type: str | None = typer.Option(None, help="p256, p384, rsa2048, rsa3072 or rsa4096. Default p256."),
    ttl: str | None = typer.Option(None, help="Lifetime to ask for, such as 1h. Default: the server's."),
    server_name: str | None = typer.Option(None, help="The name in the server's certificate, if not the host's."),
    ready_file: Path | None = typer.Option(None, help="Written once an identity is held and served: JSON."),
    config: Path | None = typer.Option(None, "--config", envvar="MESHCA_AGENT_CONFIG", help="A TOML file."),
    log_format: str | None = typer.Option(None, help="auto, json or console."),
    log_level: str | None = typer.Option(None, help="debug, info, warning or error."),
) -> None:
    """Run the node agent: it holds one identity, renews it and serves it to proxies on a Unix socket.

    Needs --join-token or --token-file. Each flag is also a key of the configuration file and an environment variable
    such as MESHCA_AGENT_SERVER.
    """
    from meshca.settings.agent import AgentSettings
    from meshca.settings.sources import load_settings
    from meshca.wiring.agent import run_agent

    flags = {
        "server": server,
        "trust_bundle": trust_bundle,
        "join_token": join_token,
        "token_file": token_file,
        "socket": socket,
        "socket_group": socket_group,
        "output_dir": output_dir,
        "state_dir": state_dir,
        "key_type": key_type,
        "ttl": ttl,
        "server_name": server_name,
        "ready_file": ready_file,
        "log_format": log_format,
        "log_level": log_level,
    }
    run_agent(load_settings(AgentSettings, flags, config))
