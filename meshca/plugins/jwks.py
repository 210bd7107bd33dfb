"""Where a token issuer's key set comes from: a file, or an HTTPS address."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import httpx2

from meshca.errors import MeshcaError, invalid, unavailable
from meshca.tokens.jwks import MAX_JWKS_BYTES, JwksDocument, parse_jwks

DEFAULT_TIMEOUT = 5.0


class FileJwksSource:
    """A key set in a file, read anew at each fetch, so that a replaced file is noticed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fetch(self) -> JwksDocument:
        """The key set in the file. Raises UNAVAILABLE where it cannot be read, INVALID where it is no usable set."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_JWKS_BYTES + 1)
        except OSError as error:
            raise unavailable(f"key set {self._path}: it cannot be read: {error.strerror}") from error
        return _parse(str(self._path), data)


class HttpsJwksSource:
    """A key set at an https address.

    The server is verified against `ca_file` (PEM), or against the system's CAs. Redirects, proxies and credentials
    from the environment, and content encodings are not used: the configured address itself must answer. `timeout`
    (seconds) bounds each step and the whole body. Raises INVALID for an address that is not plain https.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_bytes: int = MAX_JWKS_BYTES,
        ca_file: Path | None = None,
    ) -> None:
        self._name = _check_url(url)
        self._url = url
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._ca_file = ca_file

    def fetch(self) -> JwksDocument:
        """The key set as served now.

        Raises UNAVAILABLE where the server is out of reach, not trusted, too slow, or answers anything but 200; INVALID
        where the answer is too large or no usable set.
        """
        try:
            data = self._download()
        except (httpx2.HTTPError, OSError) as error:
            raise unavailable(f"key set {self._name}: it cannot be fetched: {_brief(error)}") from error
        return _parse(self._name, data)

    def _download(self) -> bytes:
        # one client per fetch: fetches are minutes apart, and a replaced ca_file takes effect
        context = ssl.create_default_context(cafile=self._ca_file)
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        with (
            httpx2.Client(verify=context, trust_env=False, timeout=self._timeout, headers=headers) as client,
            client.stream("GET", self._url) as response,
        ):
            if response.status_code != 200:
                raise unavailable(f"key set {self._name}: the server answered {response.status_code}, not 200")
            return self._read(response)

    def _read(self, response: httpx2.Response) -> bytes:
        """The body as sent, with a deadline for the whole of it: each step's own would let it trickle for ever."""
        deadline = time.monotonic() + self._timeout
        data = bytearray()
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > self._max_bytes:
                raise invalid(f"key set {self._name}: it is longer than {self._max_bytes} bytes")
            if time.monotonic() > deadline:
                raise unavailable(f"key set {self._name}: it did not arrive within {self._timeout:g} s")
        return bytes(data)


def _check_url(text: str) -> str:
    """The address for messages: without its query, which may hold a secret."""
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise invalid("key set address: it is not a URL") from error
    if url.scheme != "https" or not url.host or not 0 < (url.port or 443) < 65536:
        raise invalid("key set address: give an https URL, such as https://issuer.example/keys")
    if url.userinfo or url.fragment:
        raise invalid(f"key set address of {url.host}: it must have no user, password or fragment")
    return f"https://{url.netloc.decode('ascii')}{url.path}"


def _parse(name: str, data: bytes) -> JwksDocument:
    try:
        return parse_jwks(data)
    except MeshcaError as error:
        raise invalid(f"key set {name}: {error.message.removeprefix('key set: ')}") from error


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
