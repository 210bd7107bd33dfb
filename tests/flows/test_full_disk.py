"""Law 2 under a full disk: the real server signs nothing that it cannot record, says so, and recovers by itself."""

from __future__ import annotations

import resource
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from meshca.proto.istio.v1.auth import ca_pb2, ca_pb2_grpc
from tests.doors import csr_pem
from tests.programs import TRUST_DOMAIN, Agent, Server

WEB = f"spiffe://{TRUST_DOMAIN}/ns/a/sa/web"
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def limit_files(pid: int, size: int) -> None:
    """No file of the process may grow beyond `size` bytes; what the kernel then says is EFBIG instead of ENOSPC."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def test_a_full_disk_stops_issuance_until_there_is_room_again(short_tmp: Path) -> None:
    output = short_tmp / "out"
    async with Server(short_tmp) as server, Agent(server, short_tmp, WEB, "--output-dir", str(output)):
        key, chain, root = ((output / f"{name}.pem").read_bytes() for name in ("key", "cert-chain", "root-cert"))
        credentials = grpc.ssl_channel_credentials(root, key, chain)
        with grpc.secure_channel(server.facts["mtls"], credentials) as channel:
            stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
            request = ca_pb2.IstioCertificateRequest(csr=csr_pem())
            stub.CreateCertificate(request, timeout=15)
            known = {record["serial"] for record in server.ledger()}

            limit_files(server.facts["pid"], 1)
            for _ in range(3):
                with pytest.raises(grpc.RpcError) as refused:
                    stub.CreateCertificate(request, timeout=15)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                assert refused.value.details() == (
                    "CSR signing error (the certificate cannot be recorded right now; nothing was issued)"
                )
            limit_files(server.facts["pid"], resource.RLIM_INFINITY)

            answer = stub.CreateCertificate(request, timeout=15)
        issued = x509.load_pem_x509_certificate(answer.cert_chain[0].encode())
        after = {record["serial"] for record in server.ledger()}
        assert after - known == {f"{issued.serial_number:x}"}
