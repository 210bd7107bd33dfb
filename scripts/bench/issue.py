"""Certificates per second and server CPU per certificate, beside the bare cost of a verification and a signature.

Server and load generator share the cores however many workers there are, so that runs compare like with like; each line
says how many cores they took, and how many other programs did: where those are busy, more workers cannot be faster.
After each run what the generator got is counted in the ledger. Every ratio is taken within one run; absolute figures
are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from meshca.proto.istio.v1.auth import ca_pb2
from meshca.proto.meshca.v1 import certificates_pb2 as pb

HERE = Path(__file__).resolve().parent
MESHCA = Path(sys.executable).with_name("meshca")
SPIFFE_ID = "spiffe://bench.test/ns/bench/sa/load"
LOG_LEVEL = os.environ.get("BENCH_LOG_LEVEL", "warning")
SHA256 = ec.ECDSA(hashes.SHA256())
LAST_CORE = (os.cpu_count() or 1) - 1
# The kernel spreads connections, not calls, over the workers: few or idle ones would load the workers unevenly.
CONNECTIONS, UNARY_IN_FLIGHT, BATCHES_IN_FLIGHT = 16, 32, 16
CONFIG = "[limits]\nrequests_per_second = 1e9\nburst = 1000000000\nthreads = {threads}\n"


def bare_cost(seconds: float) -> float:
    """Microseconds of CPU to load a public key, verify one P-256 signature and make one."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    data = os.urandom(300)
    signature = key.sign(data, SHA256)
    count, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for _ in range(100):
            load_der_public_key(spki).verify(signature, data, SHA256)  # type: ignore[union-attr,call-arg]
            key.sign(data, SHA256)
        count += 100
    return (time.process_time() - start) / count * 1e6


def csr(key: ec.EllipticCurvePrivateKey, encoding: Encoding) -> bytes:
    """A CSR as a sidecar sends it."""
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SPIFFE_ID)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(san, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(encoding)


@contextmanager
def server(directory: Path, cores: str, workers: int, threads: int, rows: int):
    """A server with a fresh CA on `cores`; yields its ready facts."""
    data_dir, ready, config = directory / "ca", directory / "ready.json", directory / "server.toml"
    subprocess.run(
        [MESHCA, "init", "--data-dir", data_dir, "--trust-domain", "bench.test"], check=True, capture_output=True
    )
    seed(data_dir / "meshca.db", rows)
    config.write_text(CONFIG.format(threads=threads))
    command = ["taskset", "-c", cores, MESHCA, "server", "--data-dir", data_dir, "--config", config]
    listen = ["--token-listen", "127.0.0.1:0", "--mtls-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    more = ["--ready-file", ready, "--workers", str(workers), "--log-level", LOG_LEVEL]
    process = subprocess.Popen([*command, *listen, *more])
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise SystemExit("the server ended early")
            time.sleep(0.02)
        yield json.loads(ready.read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def seed(database: Path, rows: int) -> None:
    """Fills the ledger with `rows` old certificates."""
    if not rows:
        return
    connection = sqlite3.connect(database)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(certificates)") if row[1] != "id"]
    now = int(time.time())
    fixed = {"kind": "leaf", "dns_names": "[]", "method": "jwt", "attested": "bench", "key_fingerprint": "0" * 64}
    fixed |= {"issuer_id": "0" * 40, "not_before": now - 9000, "not_after": now - 5400, "bundle_sequence": 1}
    fixed |= {"protocol": "istio", "renews": ""}

    def row(number: int) -> list[object]:
        name = f"spiffe://bench.test/ns/n{number % 997}/sa/s{number % 10007}"
        own = {"serial": os.urandom(20).hex(), "spiffe_id": name, "caller_id": name, "recorded_at": now - 9000}
        return [({**fixed, **own})[column] for column in columns]

    marks = ",".join("?" * len(columns))
    with connection:
        sql = f"INSERT INTO certificates ({','.join(columns)}) VALUES ({marks})"  # noqa: S608
        connection.executemany(sql, (row(number) for number in range(rows)))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def enrol(directory: Path, facts: dict[str, str]) -> None:
    """Gets the load generator its certificate, by a join token, as an agent would."""
    data_dir = directory / "ca"
    made = subprocess.run(
        [MESHCA, "token", "create", "--data-dir", data_dir, "--spiffe-id", SPIFFE_ID],
        check=True,
        capture_output=True,
        text=True,
    )
    root = subprocess.run([MESHCA, "bundle", "show", "--data-dir", data_dir], check=True, capture_output=True).stdout
    key = ec.generate_private_key(ec.SECP256R1())
    request = pb.SignCertificatesRequest(requests=[pb.SigningRequest(csr=csr(key, Encoding.DER), ttl_seconds=86400)])
    with grpc.secure_channel(facts["token"], grpc.ssl_channel_credentials(root)) as channel:
        method = channel.unary_unary(
            "/meshca.v1.CertificateService/SignCertificates",
            pb.SignCertificatesRequest.SerializeToString,
            pb.SignCertificatesResponse.FromString,
        )
        answer = method(request, metadata=[("authorization", f"Bearer {made.stdout.strip()}")], timeout=10)
    chain = [x509.load_der_x509_certificate(der) for der in answer.results[0].certificate.chain]
    (directory / "chain.pem").write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in chain))
    (directory / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (directory / "root.pem").write_bytes(root)


def write_request(directory: Path, batch: int) -> Path:
    """The serialised request of each call."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = directory / f"request-{batch}"
    if batch:
        wish = pb.SigningRequest(csr=csr(key, Encoding.DER))
        path.write_bytes(pb.SignCertificatesRequest(requests=[wish] * batch).SerializeToString())
    else:
        pem = csr(key, Encoding.PEM).decode()
        path.write_bytes(ca_pb2.IstioCertificateRequest(csr=pem, validity_duration=3600).SerializeToString())
    return path


def cpu_seconds(pid: int) -> tuple[float, float]:
    """CPU used by a process and its children so far: in all, and in the kernel."""
    total = kernel = 0.0
    pids = [pid]
    while pids:
        current = pids.pop()
        fields = Path(f"/proc/{current}/stat").read_text().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        total += (int(fields[11]) + int(fields[12])) / ticks
        kernel += int(fields[12]) / ticks
        for task in Path(f"/proc/{current}/task").iterdir():
            pids.extend(int(child) for child in (task / "children").read_text().split())
    return total, kernel


def machine_seconds() -> float:
    """CPU used by all that runs on this machine so far, and by its neighbours while it had to wait for them."""
    user, nice, system, _, _, irq, softirq, steal, *_ = Path("/proc/stat").read_text().split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / os.sysconf("SC_CLK_TCK")


def recorded(directory: Path) -> int:
    """Leaf certificates in the ledger."""
    with closing(sqlite3.connect(directory / "ca" / "meshca.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM certificates WHERE kind = 'leaf'").fetchone()[0])


def load(directory: Path, target: str, batch: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """What the generator saw in `seconds`. Ends the program unless the ledger has just as many new certificates."""
    request = write_request(directory, batch)
    command = [sys.executable, HERE / "load.py", "--target", target, "--credentials", directory, "--request", request]
    bounds = {"batch": batch, "in-flight": in_flight, "connections": CONNECTIONS, "seconds": seconds}
    flags = [f"--{name}={value}" for name, value in bounds.items()]
    before = recorded(directory)
    done = subprocess.run([*command, *flags], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    new = recorded(directory) - before
    if new != result["certificates"]:
        raise SystemExit(f"{result['certificates']} certificates came, {new} are in the ledger: {result['errors']}")
    return result


def measure(directory: Path, facts: dict[str, Any], batch: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """One load run: what the generator saw, what the server spent per certificate, how busy both were."""
    load(directory, facts["mtls"], batch, in_flight, 1.0)  # warm up
    before, machine, start = cpu_seconds(facts["pid"]), machine_seconds(), time.monotonic()
    result = load(directory, facts["mtls"], batch, in_flight, seconds)
    spent, kernel = (after - was for after, was in zip(cpu_seconds(facts["pid"]), before, strict=True))
    machine, passed, certificates = machine_seconds() - machine, time.monotonic() - start, result["certificates"]
    result |= {"cpu_us": spent / max(1, certificates) * 1e6, "kernel_us": kernel / max(1, certificates) * 1e6}
    result |= {"per_second": certificates / result["seconds"], "server_cores": spent / passed}
    result["load_cores"] = result["cpu_seconds"] / passed
    result["other_cores"] = max(0.0, machine / passed - result["server_cores"] - result["load_cores"])
    return result


def report(name: str, result: dict, bare: float) -> None:
    """One line of the table."""
    ratio = result["cpu_us"] / bare
    cpu = f"{result['cpu_us']:7.0f} us ({result['kernel_us']:.0f} in the kernel)"
    figures = f"{result['per_second']:8.0f}/s {cpu} {ratio:6.2f} x"
    busy = "cores: " + ", ".join(f"{who} {result[f'{who}_cores']:.2f}" for who in ("server", "load", "other"))
    print(f"{name:<40}{figures}   p50 {result['p50_ms']:6.1f}  p99 {result['p99_ms']:6.1f} ms   {busy}", end="")
    print(f"   errors {result['errors']}" if result["errors"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each run")
    parser.add_argument("--threads", type=int, default=32, help="threads for what blocks")
    parser.add_argument("--rows", type=int, default=0, help="rows in the ledger beforehand, such as 1000000")
    parser.add_argument("--workers", type=int, nargs="*", default=[1], help="signing processes, one run for each")
    parser.add_argument("--server-cores", default=f"0-{LAST_CORE}", help="such as 0, to bind the server to one")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args()
    results = []
    print(
        f"server on cores {options.server_cores}, load on any of 0-{LAST_CORE}, {CONNECTIONS} connections", flush=True
    )
    for workers in options.workers:
        directory = Path(tempfile.mkdtemp(prefix="meshca-bench-"))
        try:
            with server(directory, options.server_cores, workers, options.threads, options.rows) as facts:
                enrol(directory, facts)
                bare = bare_cost(1.0)
                unary = measure(directory, facts, 0, UNARY_IN_FLIGHT, options.seconds)
                batch = measure(directory, facts, options.batch, BATCHES_IN_FLIGHT, options.seconds)
                bare = min(bare, bare_cost(1.0))
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        print(f"{'bare: load key, verify, sign':<40}{'':>10} {bare:7.0f} us {'':>18} 1.00 x")
        report(f"unary, {workers} worker(s), {UNARY_IN_FLIGHT} in flight", unary, bare)
        report(f"batch of {options.batch}, {workers} worker(s), {BATCHES_IN_FLIGHT} in flight", batch, bare)
        results.append({"workers": workers, "rows": options.rows, "bare_us": bare, "unary": unary, "batch": batch})
    if len(results) > 1:
        for kind in ("unary", "batch"):
            ratio = results[-1][kind]["per_second"] / results[0][kind]["per_second"]
            print(f"{kind}: {results[-1]['workers']} workers give {ratio:.2f} x of {results[0]['workers']}")
    if options.output == "json":
        print(json.dumps(results))


if __name__ == "__main__":
    main()
