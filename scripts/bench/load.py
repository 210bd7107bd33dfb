"""Closed-loop load on the signing door: a given number of calls in flight, each answered before the next is sent.

Prints one JSON object: calls, certificates, seconds, errors, latency percentiles in milliseconds, and the seconds of
CPU that the load itself took.
"""

from __future__ import annotations

import argparse
import json
import selectors
import ssl
import time
from collections import Counter
from pathlib import Path

from http2 import Connection, Request
from tls import PATIENCE, Tls, client_context

UNARY = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
BATCH = "/meshca.v1.CertificateService/SignCertificates"


class Load:
    """Keeps `in_flight` calls under way over `connections` connections until the time is up."""

    def __init__(
        self, target: str, context: ssl.SSLContext, request: Request, connections: int, in_flight: int
    ) -> None:
        host, _, port = target.rpartition(":")
        self._address, self._context, self._request = (host, int(port)), context, request
        self._in_flight, self._under_way, self._end = in_flight, 0, 0.0
        self._selector = selectors.DefaultSelector()
        self._connections = min(connections, in_flight)
        self._open = [self._connect(place) for place in range(self._connections)]
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()

    def run(self, seconds: float) -> float:
        """Runs until all calls that were sent within `seconds` are answered; the seconds it took."""
        start = time.perf_counter()
        self._end = start + seconds
        for slot in range(self._in_flight):
            self._send(slot % self._connections)
        for connection in self._open:
            connection.flush()
        while self._under_way:
            ready = self._selector.select(PATIENCE)
            if not ready:
                raise SystemExit(f"{self._under_way} calls had no answer within {PATIENCE} s")
            for key, _ in ready:
                self._serve(*key.data)
        return time.perf_counter() - start

    def _connect(self, place: int) -> Connection:
        connection = Connection(Tls(*self._address, self._context), self._request)
        if connection.most_calls * self._connections < self._in_flight:
            raise SystemExit(f"the server takes at most {connection.most_calls} calls at once on each connection")
        self._selector.register(connection.socket, selectors.EVENT_READ, (place, connection))
        return connection

    def _send(self, place: int) -> None:
        if time.perf_counter() < self._end:
            self._open[place].call()
            self._under_way += 1

    def _serve(self, place: int, connection: Connection) -> None:
        """Reads what has come, and sends a new call for each that ended, on a new connection where the old one ends."""
        outcomes = connection.receive()
        if connection.leaving and self._open[place] is connection:
            self._open[place] = self._connect(place)
        for sent, status in outcomes:
            self._under_way -= 1
            self._count(sent, status)
            self._send(place)
        connection.flush()
        self._open[place].flush()
        if connection.leaving and not connection.calls:
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _count(self, sent: float, status: str | None) -> None:
        if status == "OK":
            self.latencies.append(time.perf_counter() - sent)
        elif status:
            self.errors[status] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--credentials", type=Path, required=True, help="directory with key, chain and root")
    parser.add_argument("--request", type=Path, required=True, help="the serialised request")
    parser.add_argument("--batch", type=int, default=0, help="certificates per call; 0: unary CreateCertificate")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    request = Request(options.target, BATCH if options.batch else UNARY, options.request.read_bytes())
    context = client_context(options.credentials)
    load = Load(options.target, context, request, options.connections, options.in_flight)
    cpu = time.process_time()
    seconds = load.run(options.seconds)
    cpu = time.process_time() - cpu
    ordered = sorted(load.latencies) or [0.0]
    calls = len(load.latencies)
    print(
        json.dumps(
            {
                "calls": calls,
                "certificates": calls * max(1, options.batch),
                "seconds": seconds,
                "errors": dict(load.errors),
                "p50_ms": ordered[len(ordered) // 2] * 1000,
                "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
                "cpu_seconds": cpu,
            }
        )
    )


if __name__ == "__main__":
    main()
