#!/usr/bin/env python3
"""An upstream authority for meshca: a root key in a file, on a Unix socket. A worked example of the protocol
`meshca.plugin.v1.UpstreamAuthority`; see README.md beside it.

    upstream_plugin.py --socket /run/meshca-upstream/plugin.sock --trust-domain example.org \
                       --roots roots.pem --key root.key

The first certificate in the file of roots signs, with the key. Others in it are told of as well: put the next root
there weeks before it signs. Both files are looked at every second.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

# Made of proto/meshca/plugin/v1/upstream.proto; in another language, or without meshca, run protoc on that file.
from meshca.proto.meshca.plugin.v1 import upstream_pb2 as pb
from meshca.proto.meshca.plugin.v1 import upstream_pb2_grpc

BACKDATE = timedelta(minutes=1)
LONGEST = timedelta(days=90)  # whatever is asked for
KEY_USAGE = x509.KeyUsage(False, False, False, False, False, True, True, False, False)


class Refused(Exception):
    """The request is wrong, and stays wrong."""


class Root:
    """The roots, and the key of the first; read anew by `load`."""

    def __init__(self, roots: Path, key: Path, trust_domain: str) -> None:
        self._files = (roots, key)
        self._uri = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
        self.changed = threading.Condition()
        self.load()

    def load(self) -> None:
        """Reads both files. Raises ValueError where they do not belong together, and keeps what there was."""
        roots = x509.load_pem_x509_certificates(self._files[0].read_bytes())
        key = load_pem_private_key(self._files[1].read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise ValueError("the key is neither an EC nor an RSA key")  # noqa: TRY004  # the file is wrong
        if key.public_key() != roots[0].public_key():
            raise ValueError("the key is not that of the first root")
        with self.changed:
            self.roots, self._key = tuple(root.public_bytes(Encoding.DER) for root in roots), key
            self._certificate = roots[0]
            self.changed.notify_all()

    def sign(self, csr: bytes, ttl: timedelta) -> bytes:
        """The issuing CA that is asked for, DER. What is not as the protocol says it is refused."""
        if ttl <= timedelta(0):
            raise Refused("ttl_seconds must be more than 0")
        request, now = self._checked(csr), datetime.now(UTC).replace(microsecond=0)
        with self.changed:
            root, key = self._certificate, self._key
        identifier = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
        above = _extension(root, x509.SubjectKeyIdentifier) or identifier
        issuing = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(root.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - BACKDATE, root.not_valid_before_utc))
            .not_valid_after(min(now + min(ttl, LONGEST), root.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(KEY_USAGE, critical=True)
            .add_extension(x509.SubjectAlternativeName([self._uri]), critical=False)
            .add_extension(_wanted(request, x509.SubjectKeyIdentifier), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        # a real one writes it down, durably, before it lets go of it
        return issuing.public_bytes(Encoding.DER)

    def _checked(self, csr: bytes) -> x509.CertificateSigningRequest:
        try:
            request = x509.load_der_x509_csr(csr)
            names = list(_wanted(request, x509.SubjectAlternativeName))
            constraints = _wanted(request, x509.BasicConstraints)
        except ValueError as error:
            raise Refused(f"csr does not parse: {error}") from error
        if not request.is_signature_valid:
            raise Refused("csr: its signature does not verify")
        if names != [self._uri]:
            raise Refused(f"csr is not for {self._uri.value}, and for that alone")
        if not constraints.ca or constraints.path_length != 0:
            raise Refused("csr is not for a CA of path length 0")
        return request


class Plugin(upstream_pb2_grpc.UpstreamAuthorityServicer):
    """The protocol. `stopping` ends the streams."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self.stopping = False

    def Mint(self, request: pb.MintRequest, context: grpc.ServicerContext) -> pb.MintResponse:  # noqa: N802  # gRPC's
        """Signs an issuing CA."""
        try:
            issuing = self._root.sign(request.csr, timedelta(seconds=min(request.ttl_seconds, 10**9)))
        except Refused as refused:
            _refuse(context, str(refused))
        return pb.MintResponse(chain=[issuing])

    def WatchRoots(self, request: pb.WatchRootsRequest, context: grpc.ServicerContext) -> Iterator[pb.Roots]:  # noqa: N802
        """The roots, at once and after each change."""
        told: tuple[bytes, ...] = ()
        while context.is_active() and not self.stopping:
            if told != self._root.roots:
                told = self._root.roots
                yield pb.Roots(roots=told)
            with self._root.changed:
                self._root.changed.wait(1)


def _refuse(context: grpc.ServicerContext, why: str) -> NoReturn:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
    raise AssertionError("abort returned")


def _wanted(request: x509.CertificateSigningRequest, kind: type) -> Any:
    try:
        return request.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound as error:
        raise Refused(f"csr asks for no {kind.__name__}") from error


def _extension(certificate: x509.Certificate, kind: type) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def follow(root: Root, stop: threading.Event) -> None:
    """Reads the files anew every second; what cannot be used is told, once, and changes nothing."""
    problem = ""
    while not stop.wait(1):
        try:
            root.load()
            problem = ""
        except (OSError, ValueError) as error:
            if str(error) != problem:
                problem = str(error)
                print(f"the roots stay as they were: {problem}", file=sys.stderr, flush=True)


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--socket", required=True, help="an absolute path; who may open it may have CAs signed")
    parser.add_argument("--trust-domain", required=True)
    parser.add_argument("--roots", required=True, type=Path, help="PEM; the first one signs")
    parser.add_argument("--key", required=True, type=Path, help="PEM, of the first one")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    root = Root(options.roots, options.key, options.trust_domain)
    plugin = Plugin(root)
    # a stream keeps a thread for as long as it lasts: meshca holds one, and a conformance run another
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 64 * 1024)])
    upstream_pb2_grpc.add_UpstreamAuthorityServicer_to_server(plugin, server)
    os.umask(0o077)  # the socket is for this user alone
    server.add_insecure_port(f"unix:{options.socket}")
    server.start()
    print(f"serving on {options.socket}", flush=True)
    follow(root, stop)
    plugin.stopping = True
    server.stop(2).wait()


if __name__ == "__main__":
    main()
