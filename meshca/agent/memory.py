"""The proxies that rely on an agent, in a file: what they may still use does not end with the agent's process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from meshca.agent.durable import replace_file
from meshca.agent.relying import KnownProxy
from meshca.errors import MeshcaError, internal, invalid

FILE_NAME = "proxies.json"
FORMAT = 2
MAX_BYTES = 16 * 1024 * 1024  # a thousand of the longest node ids take a third of that

_log = structlog.get_logger("meshca.agent")


class ProxyFile:
    """The file, in the directory of the agent's state; blocking, so coroutines call it in a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._directory / FILE_NAME

    def load(self) -> tuple[KnownProxy, ...]:
        """What was saved; nothing where there is no file. Raises INVALID where there is one that cannot be read."""
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            return _parse(json.loads(content))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise invalid(f"{self.path}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise invalid(f"{self.path}: is damaged") from error

    def save(self, known: tuple[KnownProxy, ...]) -> None:
        """Saves durably, replacing what was there. Raises INTERNAL where that fails."""
        document = {"format": FORMAT, "proxies": [_row(p) for p in known]}
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self.path, json.dumps(document, ensure_ascii=False).encode(), 0o600)
        except OSError as error:
            raise internal(f"--state-dir {self._directory}: cannot save the proxies: {error.strerror}") from error


class ProxyMemory:
    """Keeps the file in step with what is known. Many changes at once are one write."""

    def __init__(self, file: ProxyFile) -> None:
        self._file = file
        self._saving = asyncio.Lock()
        self._saved: tuple[KnownProxy, ...] = ()
        self._failing = False

    async def recall(self, *, restored: bool = False) -> tuple[KnownProxy, ...] | None:
        """What was saved; None, with a log line, where it is lost. An agent that goes on from a saved identity
        (`restored`) had proxies, perhaps, so that there must be a file."""
        try:
            self._saved = await asyncio.to_thread(self._begin, restored)
        except MeshcaError as error:
            _log.error("proxies_forgotten", reason=error.message)
            return None
        return self._saved

    def _begin(self, restored: bool) -> tuple[KnownProxy, ...]:
        if not self._file.path.exists():
            if restored:
                raise invalid(f"{self._file.path}: does not exist, though an identity was saved")
            # from now on it says who there is, also where that is nobody; where that fails, a restart knows of nobody
            with suppress(MeshcaError):
                self._file.save(())
        return self._file.load()

    async def keep(self, known: Callable[[], tuple[KnownProxy, ...]]) -> bool:
        """Returns once the file has all that `known` gives now; whether it has."""
        async with self._saving:
            now_known = known()
            if now_known == self._saved:
                return True
            try:
                await asyncio.to_thread(self._file.save, now_known)
            except MeshcaError as error:
                if not self._failing:
                    _log.error("proxies_not_saved", reason=error.message)
                self._failing = True
                return False
            self._saved, self._failing = now_known, False
            return True


def _parse(document: Any) -> tuple[KnownProxy, ...]:
    """Raises ValueError, TypeError or KeyError for what is no sound document."""
    if document["format"] != FORMAT:
        raise ValueError
    return tuple(_proxy(*fields) for fields in document["proxies"])


def _row(proxy: KnownProxy) -> list[str | None]:
    return [proxy.node_id, proxy.until.isoformat(), proxy.trust, proxy.identity]


def _proxy(node_id: Any, until: Any, trust: Any, identity: Any) -> KnownProxy:
    if not isinstance(node_id, str) or not isinstance(trust, str | None) or not isinstance(identity, str):
        raise TypeError
    end = datetime.fromisoformat(until)
    if end.tzinfo is None:
        raise ValueError
    return KnownProxy(node_id, end, trust, identity)
