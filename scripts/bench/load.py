"""Closed-loop load on the signing door: a given number of calls in flight, each answered before the next is sent.

Prints one JSON object: calls, certificates, seconds, errors, latency percentiles in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import Counter
from pathlib import Path

import grpc

UNARY = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
BATCH = "/meshca.v1.CertificateService/SignCertificates"


class Load:
    """Sends `request` to `method` with `in_flight` calls under way until the time is up."""

    def __init__(
        self, channels: list[grpc.Channel], method: str, request: bytes, in_flight: int, seconds: float
    ) -> None:
        self._calls = [channel.unary_unary(method) for channel in channels]
        self._request = request
        self._in_flight = in_flight
        self._end = time.perf_counter() + seconds
        self._left = threading.Semaphore(0)
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()

    def run(self) -> float:
        """Runs to the end; the seconds it took."""
        start = time.perf_counter()
        for slot in range(self._in_flight):
            self._send(slot)
        for _ in range(self._in_flight):
            self._left.acquire()
        return time.perf_counter() - start

    def _send(self, slot: int) -> None:
        sent = time.perf_counter()
        if sent >= self._end:
            self._left.release()
            return
        future = self._calls[slot % len(self._calls)].future(self._request, timeout=30)
        future.add_done_callback(lambda done: self._done(slot, sent, done))

    def _done(self, slot: int, sent: float, future: grpc.Future) -> None:
        code = future.code()
        if code is grpc.StatusCode.OK:
            self.latencies.append(time.perf_counter() - sent)
        else:
            self.errors[code.name] += 1
        self._send(slot)


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
    key, chain, root = ((options.credentials / name).read_bytes() for name in ("key.pem", "chain.pem", "root.pem"))
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    channels = [
        grpc.secure_channel(options.target, credentials, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(options.connections)
    ]
    for channel in channels:
        grpc.channel_ready_future(channel).result(timeout=30)
    load = Load(
        channels, BATCH if options.batch else UNARY, options.request.read_bytes(), options.in_flight, options.seconds
    )
    seconds = load.run()
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
            }
        )
    )


if __name__ == "__main__":
    main()
