"""What an agent needs to go on after a restart, in one file: its join token can be spent only once.

The file holds a private key. It is believed only while nobody else could have written or read it, and only for the
server and trust bundle that it was made with; whatever does not fit is left out of account, as if it were not there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from meshca.agent.addresses import ServerAddress, parse_server_address
from meshca.agent.durable import replace_file
from meshca.agent.identity import AgentIdentity, verified_identity
from meshca.errors import MeshcaError, internal, invalid
from meshca.spiffe.bundles import RevocationList, TrustBundle
from meshca.spiffe.ids import TrustDomain, parse_workload_id
from meshca.spiffe.svids import X509Svid

FILE_NAME = "identity.json"
FORMAT = 1
MAX_BYTES = 4 * 1024 * 1024  # revocation lists may have two, and are written in base64

_log = structlog.get_logger("meshca.agent")


class AgentState:
    """The saved identity in `directory`; blocking, so coroutines call it in a thread.

    `binding` is the digest of the configuration that it belongs to, see `state_binding`.
    """

    def __init__(self, directory: Path, binding: str) -> None:
        self._directory = directory
        self._binding = binding

    @property
    def path(self) -> Path:
        """The file."""
        return self._directory / FILE_NAME

    def load(self, now: datetime) -> AgentIdentity | None:
        """The saved identity if it is there, ours, undamaged and valid at `now`; else None, with a log line."""
        try:
            document = json.loads(self._read())
            return _parse(document, self._binding, now)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        except MeshcaError as error:
            reason = error.message
        except (ValueError, TypeError, KeyError, RecursionError):
            reason = "is damaged"  # what is in it may be a key, so the parser's words stay here
        _log.warning("state_ignored", path=str(self.path), reason=reason)
        return None

    def save(self, identity: AgentIdentity) -> None:
        """Saves durably, replacing what was there. Raises INTERNAL where that fails or others may reach the place."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(self._directory.stat(), "its directory")
            replace_file(self.path, json.dumps(_document(identity, self._binding)).encode("ascii"), 0o600)
        except OSError as error:
            raise internal(f"--state-dir {self._directory}: cannot save the identity: {error.strerror}") from error
        except MeshcaError as error:
            raise internal(f"--state-dir {self._directory}: {error.message}") from error

    def _read(self) -> bytes:
        _check_private(self._directory.stat(), "its directory")
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise invalid("it is no regular file")
            _check_private(status, "it")
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise invalid(f"it is longer than {MAX_BYTES} bytes")
        return content


def state_binding(trust_pem: bytes, server: ServerAddress) -> str:
    """The digest of what a saved identity belongs to: the configured trust bundle file and server address."""
    return hashlib.sha256(hashlib.sha256(trust_pem).digest() + str(server).encode()).hexdigest()


def _check_private(status: os.stat_result, what: str) -> None:
    if status.st_uid != os.geteuid():
        raise invalid(f"{what} belongs to another user")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise invalid(f"{what} is open to others (mode {stat.S_IMODE(status.st_mode):o}): chmod go= it")


def _document(identity: AgentIdentity, binding: str) -> dict[str, Any]:
    bundle = identity.bundle
    return {
        "format": FORMAT,
        "binding": binding,
        "spiffe_id": str(identity.spiffe_id),
        "chain": [_b64(der) for der in identity.svid.chain],
        "private_key": identity.svid.private_key_pem.decode("ascii"),
        "bundle": {
            "trust_domain": bundle.trust_domain.name,
            "x509_authorities": [_b64(der) for der in bundle.x509_authorities],
            "sequence": bundle.sequence,
            "refresh_hint": bundle.refresh_hint,
            "revocation_lists": [
                {"crl": _b64(each.crl), "issuers": [_b64(der) for der in each.issuers]}
                for each in bundle.revocation_lists
            ],
        },
        "mtls_address": None if identity.mtls is None else str(identity.mtls),
        "received_at": identity.life.received_at.isoformat(),
    }


def _parse(document: Any, binding: str, now: datetime) -> AgentIdentity:
    """Raises MeshcaError, ValueError, TypeError or KeyError for what is no sound document."""
    if document["format"] != FORMAT:
        raise invalid("it was written by another version of meshca")
    if document["binding"] != binding:
        raise invalid("it was made with another --trust-bundle or --server")
    chain = tuple(_from_b64(der) for der in document["chain"])
    key = str(document["private_key"]).encode("ascii")
    svid = X509Svid(parse_workload_id(str(document["spiffe_id"])), chain, key)
    address = document["mtls_address"]
    mtls = None if address is None else parse_server_address("mtls_address", str(address))
    received_at = datetime.fromisoformat(document["received_at"])
    return verified_identity(svid, _bundle(document["bundle"]), mtls, received_at=received_at, now=now)


def _bundle(document: Any) -> TrustBundle:
    authorities = tuple(_from_b64(der) for der in document["x509_authorities"])
    sequence, hint = document["sequence"], document["refresh_hint"]
    if type(sequence) is not int or type(hint) is not int:
        raise TypeError
    # an agent before the first that knew of lists wrote none
    lists = tuple(_list(each) for each in document.get("revocation_lists", []))
    return TrustBundle(TrustDomain(document["trust_domain"]), authorities, sequence, hint, lists)


def _list(document: Any) -> RevocationList:
    return RevocationList(_from_b64(document["crl"]), tuple(_from_b64(der) for der in document["issuers"]))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_b64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError from error
