"""`meshca plugin`: whether a plug-in does what it must."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from meshca.cli.admin_options import OUTPUT
from meshca.cli.output import OutputFormat, print_json, printable

if TYPE_CHECKING:
    from meshca.services.conformance import Finding

_FAILED = 3


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    nouns = typer.Typer(no_args_is_help=True, help="Plug-ins: upstream authorities, which sign our issuing CAs.")
    nouns.command("test")(examine)
    nouns.callback()(_plugin)
    app.add_typer(nouns, name="plugin")


def _plugin() -> None:
    """Plug-ins: upstream authorities, which sign our issuing CAs."""


def examine(
    address: str | None = typer.Argument(None, metavar="ADDRESS", help="unix:/PATH, or HOST:PORT (mutual TLS)."),
    config: Path | None = typer.Option(None, "--config", help="A server's TOML file: test what its [upstream] names."),
    trust_domain: str = typer.Option("example.org", "--trust-domain", help="The one that is asked for."),
    ttl: str = typer.Option("30d", "--ttl", metavar="DURATION", help="The lifetime that is asked for."),
    deadline: str | None = typer.Option(None, "--deadline", metavar="DURATION", help="For each answer. Default: 10s."),
    ca_file: Path | None = typer.Option(None, "--ca-file", help="Whom to believe (PEM)."),
    cert_file: Path | None = typer.Option(None, "--cert-file", help="Our certificate (PEM)."),
    key_file: Path | None = typer.Option(None, "--key-file", help="Its key (PEM)."),
    server_name: str | None = typer.Option(None, "--server-name", help="In its certificate, if not the host."),
    output: OutputFormat = OUTPUT,
) -> None:
    """Test an upstream authority: have it sign issuing CAs for keys that are thrown away, and say what it does wrong.

    Exit code 0 where every check passes, 3 where one does not.
    """
    from meshca.settings.sources import read_duration
    from meshca.spiffe.ids import TrustDomain
    from meshca.wiring.upstream import build_conformance, read_upstream

    given = {
        "address": address,
        "deadline": deadline,
        "ca_file": ca_file,
        "cert_file": cert_file,
        "key_file": key_file,
        "server_name": server_name,
    }
    settings = read_upstream(config, given)
    failed, findings = 0, []
    with build_conformance(settings, TrustDomain(trust_domain), read_duration("--ttl", ttl)) as conformance:
        for finding in conformance.run():
            failed += bool(finding.problem)
            findings.append(finding)
            if output is OutputFormat.TABLE:
                _print(finding)
    if output is OutputFormat.JSON:
        print_json({"passed": not failed, "checks": [_fields(finding) for finding in findings]})
    else:
        print(f"\n{settings.name}: {f'{failed} of {len(findings)} checks failed' if failed else 'every check passed'}")
    if failed:
        raise typer.Exit(_FAILED)


def _print(finding: Finding) -> None:
    print(f"{_outcome(finding):<8}{finding.check}", flush=True)
    if finding.problem:
        print(f"        {printable(finding.problem)}", flush=True)


def _fields(finding: Finding) -> dict[str, str]:
    return {"check": finding.check, "outcome": _outcome(finding), "problem": printable(finding.problem)}


def _outcome(finding: Finding) -> str:
    if finding.skipped:
        return "skipped"
    return "FAILED" if finding.problem else "ok"
