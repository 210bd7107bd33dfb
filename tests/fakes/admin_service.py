"""A server's admin service that does as it is told: a real gRPC server on a Unix socket.

with FakeAdmin(short_tmp / "admin.sock") as admin:
    admin.statuses = [first, second]   # each call takes the next one; the last one stays
    admin.refusals["BeginRotation"] = (grpc.StatusCode.ABORTED, "a rotation is under way")
    admin.requests                     # what was asked for, in order
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from meshca.proto.meshca.v1 import admin_pb2 as pb
from meshca.proto.meshca.v1 import admin_pb2_grpc

# 2027-01-15T08:00:00Z
NOW = 1_800_000_000
DAY = 86_400
OLD_ROOT, NEW_ROOT, OLD_ISSUER, NEW_ISSUER = (digits * 20 for digits in ("a1", "b2", "c3", "d4"))
CART, DB = "spiffe://example.org/cart", "spiffe://example.org/db"


def root(authority_id: str, state: str, **fields: Any) -> pb.Authority:
    """A root that is ten days into its hundred days."""
    known = {"since": NOW - 10 * DAY, "not_before": NOW - 10 * DAY, "not_after": NOW + 90 * DAY, "bundle_sequence": 1}
    return pb.Authority(id=authority_id, kind="root", state=state, issuer_id=authority_id, **{**known, **fields})


def issuer(authority_id: str, state: str, root_id: str) -> pb.Authority:
    """An issuing CA with three days to live."""
    ends = NOW + 3 * DAY
    return pb.Authority(id=authority_id, kind="issuer", state=state, issuer_id=root_id, not_after=ends, not_before=NOW)


def laggard(spiffe_id: str = CART, **fields: Any) -> pb.Laggard:
    """Somebody with bundle 1, and no later one."""
    known = {"serial": "5e", "bundle_sequence": 1, "channel": "stream", "since": NOW - 3600, "until": NOW + 1800}
    return pb.Laggard(spiffe_id=spiffe_id, **{**known, **fields})


def at_rest(now: int = NOW, active: str = OLD_ROOT, **rotation: Any) -> pb.GetStatusResponse:
    """No rotation is under way, and `active` signs."""
    known = {"phase": "idle", "waits_for": "nothing", "holders": 2, "renewed": 2, "bundle_sequence": 1}
    coverage = pb.Coverage(bundle_sequence=1, holders=2, covered=2, complete_since=NOW - DAY)
    return pb.GetStatusResponse(
        trust_domain="example.org",
        now=now,
        rotation=pb.RotationProgress(**{"coverage": coverage, **known, **rotation}),
        authorities=[root(active, "active"), issuer(OLD_ISSUER, "active", active)],
    )


def distributing(now: int = NOW + 3, *laggards: pb.Laggard, covered: int = 2) -> pb.GetStatusResponse:
    """A rotation that began at NOW waits until both holders have bundle 2."""
    waits_for = f"{2 - covered} of 2 holders to show that they have bundle 2"
    return pb.GetStatusResponse(
        trust_domain="example.org",
        now=now,
        rotation=_under_way(phase="distributing", waits_for=waits_for, covered=covered, laggards=laggards, renewed=2),
        authorities=[
            root(OLD_ROOT, "active"),
            root(NEW_ROOT, "prepared", bundle_sequence=2),
            issuer(OLD_ISSUER, "active", OLD_ROOT),
        ],
    )


def switched(now: int, *, renewed: int = 2, old_ends: int = NOW + 60) -> pb.GetStatusResponse:
    """The new root signs; `renewed` of two holders have a certificate under it."""
    done = renewed == 2
    waits_for = "the last certificate under another root to end" if done else f"{2 - renewed} holders to renew"
    phase = "retiring" if done else "renewing"
    rotation = _under_way(phase=phase, waits_for=waits_for, covered=2, renewed=renewed, old_ends=old_ends)
    return pb.GetStatusResponse(
        trust_domain="example.org",
        now=now,
        rotation=rotation,
        authorities=[
            root(OLD_ROOT, "old"),
            root(NEW_ROOT, "active", bundle_sequence=2),
            issuer(OLD_ISSUER, "old", OLD_ROOT),
            issuer(NEW_ISSUER, "active", NEW_ROOT),
        ],
    )


def _under_way(*, covered: int, laggards: Iterable[pb.Laggard] = (), **fields: Any) -> pb.RotationProgress:
    coverage = pb.Coverage(bundle_sequence=2, holders=2, covered=covered, laggards=laggards)
    return pb.RotationProgress(
        coverage=coverage,
        holders=2,
        origin="operator",
        reason="yearly",
        since=NOW,
        predecessor=OLD_ROOT,
        successor=NEW_ROOT,
        bundle_sequence=2,
        **fields,
    )


class FakeAdmin:
    """The service. What it answers may be changed at any time."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.statuses: list[pb.GetStatusResponse] = [pb.GetStatusResponse()]
        self.plan = pb.PlanRotationResponse()
        self.authority = pb.Authority()
        self.ban = pb.Ban()
        self.records: list[pb.CertificateRecord] = []
        self.refusals: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.requests: list[Any] = []
        self.status_calls = 0
        self._told = threading.Condition()
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Opens the socket."""
        self._server = grpc.server(ThreadPoolExecutor(2))
        admin_pb2_grpc.add_AdminServiceServicer_to_server(_Service(self), self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()

    def down(self) -> None:
        """Closes the socket at once; nothing where it is closed."""
        if self._server is not None:
            self._server.stop(None).wait()
        self._server = None
        self.socket.unlink(missing_ok=True)

    def wait_for_status_calls(self, count: int) -> None:
        """Waits until the status was asked for so many times from now on."""
        with self._told:
            goal = self.status_calls + count
            assert self._told.wait_for(lambda: self.status_calls >= goal, timeout=20)

    def asked(self, kind: type[Any]) -> list[Any]:
        """The requests of that kind."""
        return [request for request in self.requests if isinstance(request, kind)]

    def next_status(self) -> pb.GetStatusResponse:
        """The next status of the script."""
        with self._told:
            self.status_calls += 1
            self._told.notify_all()
            return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


class _Service(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, admin: FakeAdmin) -> None:
        self._admin = admin

    def _take(self, name: str, request: Any, context: grpc.ServicerContext) -> None:
        self._admin.requests.append(request)
        if name in self._admin.refusals:
            context.abort(*self._admin.refusals[name])

    def GetStatus(self, request: Any, context: grpc.ServicerContext) -> pb.GetStatusResponse:  # noqa: N802
        self._take("GetStatus", request, context)
        return self._admin.next_status()

    def ListAuthorities(self, request: Any, context: grpc.ServicerContext) -> pb.ListAuthoritiesResponse:  # noqa: N802
        self._take("ListAuthorities", request, context)
        status = self._admin.statuses[0]
        return pb.ListAuthoritiesResponse(
            authorities=status.authorities,
            trust_domain=status.trust_domain,
            bundle_sequence=status.rotation.bundle_sequence,
        )

    def PlanRotation(self, request: Any, context: grpc.ServicerContext) -> pb.PlanRotationResponse:  # noqa: N802
        self._take("PlanRotation", request, context)
        return self._admin.plan

    def BeginRotation(self, request: Any, context: grpc.ServicerContext) -> pb.BeginRotationResponse:  # noqa: N802
        self._take("BeginRotation", request, context)
        return pb.BeginRotationResponse()

    def AbortRotation(self, request: Any, context: grpc.ServicerContext) -> pb.AbortRotationResponse:  # noqa: N802
        self._take("AbortRotation", request, context)
        return pb.AbortRotationResponse()

    def PrepareAuthority(self, request: Any, context: grpc.ServicerContext) -> pb.PrepareAuthorityResponse:  # noqa: N802
        self._take("PrepareAuthority", request, context)
        return pb.PrepareAuthorityResponse(authority=self._admin.authority)

    def StepAuthority(self, request: Any, context: grpc.ServicerContext) -> pb.StepAuthorityResponse:  # noqa: N802
        self._take("StepAuthority", request, context)
        return pb.StepAuthorityResponse(authority=self._admin.authority)

    def Revoke(self, request: Any, context: grpc.ServicerContext) -> pb.RevokeResponse:  # noqa: N802
        self._take("Revoke", request, context)
        return pb.RevokeResponse(ban=self._admin.ban)

    def Unban(self, request: Any, context: grpc.ServicerContext) -> pb.UnbanResponse:  # noqa: N802
        self._take("Unban", request, context)
        return pb.UnbanResponse(ban=self._admin.ban)

    def ListRevocations(self, request: Any, context: grpc.ServicerContext) -> pb.ListRevocationsResponse:  # noqa: N802
        self._take("ListRevocations", request, context)
        return pb.ListRevocationsResponse(bans=[self._admin.ban])

    def CreateJoinToken(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in the script")

    def GetTrustBundle(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in the script")

    def ListCertificates(self, request: Any, context: grpc.ServicerContext) -> pb.ListCertificatesResponse:  # noqa: N802
        self._take("ListCertificates", request, context)
        return pb.ListCertificatesResponse(records=self._admin.records)

    def RequestIssuer(self, request: Any, context: grpc.ServicerContext) -> pb.RequestIssuerResponse:  # noqa: N802
        self._take("RequestIssuer", request, context)
        return pb.RequestIssuerResponse(request=b"a request", since=NOW)

    def ImportAuthority(self, request: Any, context: grpc.ServicerContext) -> pb.ImportAuthorityResponse:  # noqa: N802
        self._take("ImportAuthority", request, context)
        new = b"new" in request.chain
        state = "prepared" if new else "active"
        by = root(NEW_ROOT if new else OLD_ROOT, state, external=True)
        return pb.ImportAuthorityResponse(issuer=issuer(NEW_ISSUER, "prepared", by.id), root=by, new_root=new)
