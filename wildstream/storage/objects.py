"""Objects of S3, GCS, Azure and HTTP servers → bytes, through faults.

Whatever may pass is tried again, with pauses that double and are random: answers of 5xx, 408, 425 and 429, timeouts,
connections that are refused, reset or stall, bodies that end too early. What will not pass fails at once, and says what
to do: no such object, no permission, another version of the object than the one that was read before.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore import exceptions, store

from wildstream.errors import ConfigError, EnvironmentProblem, StorageError
from wildstream.storage import faults, urls
from wildstream.storage.credentials import ENDPOINTS, s3_options
from wildstream.storage.faults import MissingObjectError, ShortReadError

T = TypeVar("T")

ATTEMPTS = 12
"""How often a request is made before its fault is an error."""
WHOLE_ATTEMPTS = 3
"""How often an upload is begun; each of its requests is made ATTEMPTS times."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
TIMEOUTS = {"connect_timeout": 10.0, "read_timeout": 20.0, "timeout": 300.0}
"""Seconds to wait for a connection, for the next bytes, and for a whole answer. Options of these names change them."""
_ENDPOINTS = {"s3": ENDPOINTS, "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"), "gs": ("GOOGLE_BASE_URL",)}
_user: int | None = None  # the process that has used obstore, which cannot be used behind a fork of it


@dataclass(frozen=True, slots=True)
class Version:
    """Which content an object has."""

    size: int
    """Bytes."""
    tag: str
    """The server's name of it: its ETag, else when it was changed."""


class Objects:
    """Objects by URL. It can be pickled; each process has connections of its own, made when they are first needed."""

    def __init__(self, options: Mapping[str, Any] | None = None, *, attempts: int = ATTEMPTS) -> None:
        """Take options for the stores, by obstore's names (access_key_id, endpoint, …), and of TIMEOUTS."""
        self._options = dict(options or {})
        self._attempts = attempts
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        """What crosses into another process."""
        return {"options": self._options, "attempts": self._attempts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start anew in this process."""
        self._options, self._attempts = state["options"], state["attempts"]
        self._reset()

    def __repr__(self) -> str:
        """Names of the options, never their values: some are secret."""
        return f"Objects(options={sorted(self._options)})"

    def _reset(self) -> None:
        self._stores: dict[tuple[str, int], Any] = {}
        self._homes: dict[str, str] = {}
        self._lock = threading.Lock()
        self.traffic: Counter[str] = Counter()
        """Of this process: "requests" that were made, "retries" among them, "bytes" that came."""

    def full_name(self, url: str) -> str:
        """A URL with the endpoint and account that it is looked for at: what names the object to all processes."""
        server, _ = urls.split(url)
        if server not in self._homes:
            self._homes[server] = self._home(server)
        return f"{url} {self._homes[server]}"

    def _home(self, server: str) -> str:
        """Endpoint and account of a bucket."""
        # Whether requests may go unencrypted follows from the addresses; Azure's client breaks where it is given there.
        given = {name: value for name, value in self._options.items() if name not in (*TIMEOUTS, "allow_http")}
        if server.startswith("s3:"):
            given |= s3_options(given)
        account = given.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
        where = sorted(set(_addresses(server, given).values())) + ([str(account)] if server.startswith("az:") else [])
        return " ".join(where)

    def version(self, url: str) -> Version:
        """Which content an object has now. Raises StorageError, as all that follow."""
        return self._try(url, lambda place, path: _version(obstore.head(place, path)))

    def read(
        self, url: str, start: int = 0, stop: int | None = None, *, version: Version | None = None
    ) -> tuple[memoryview, Version]:
        """The bytes [start, stop) of an object, up to its end by default, and which content they are of.

        Args:
            url: Where it lies.
            start: First byte.
            stop: Byte behind the last.
            version: The content that is wanted; any by default.

        Raises:
            StorageError: It cannot be had, ends before `stop`, or has other content.
        """
        if stop is not None and start >= stop:
            if start > stop:
                raise ValueError(f"bytes [{start}, {stop}) are no range.")
            return memoryview(b""), version or self.version(url)
        options: obstore.GetOptions = {}
        if stop is not None:
            options["range"] = (start, stop)
        elif start:
            options["range"] = {"offset": start}
        if version is not None and version.tag.startswith('"'):  # a weak tag, W/"…", never matches
            options["if_match"] = version.tag

        def get(place: Any, path: str) -> tuple[memoryview, Version]:  # noqa: ANN401 - any of obstore's stores
            answer = obstore.get(place, path, options=options or None)
            found = _version(answer.meta)
            if version is not None and found.tag != version.tag:
                raise exceptions.PreconditionError
            if version is not None and found.size != version.size:  # the same content, of which not all came
                raise ShortReadError(f"the answer is of {found.size:,} bytes, the object has {version.size:,}")
            if stop is not None and found.size < stop:
                raise StorageError(
                    f"{urls.redact(url)} has {found.size:,} bytes, the index says that a video ends at {stop:,}; it is "
                    "truncated or of another packing. Restore it, or pack the videos again."
                )
            data = memoryview(answer.buffer())
            expected = (found.size if stop is None else stop) - start
            if len(data) != expected:
                raise ShortReadError(f"the body has {len(data):,} of {expected:,} bytes")
            with self._lock:
                self.traffic["bytes"] += len(data)
            return data, found

        return self._try(url, get)

    def write(self, url: str, data: bytes | Path) -> None:
        """Put bytes, or a file in parts, in an object's place; readers find the old content or all of the new."""
        self._try(url, lambda place, path: obstore.put(place, path, data), parts=True)

    def delete(self, url: str) -> None:
        """Delete an object; it is well if there is none."""
        try:
            self._try(url, lambda place, path: obstore.delete(place, path))
        except MissingObjectError:
            return

    def list(self, folder: str) -> dict[str, int]:
        """Names in a folder and below it, relative to it, with their sizes; servers of plain HTTP have no lists."""
        server, prefix = urls.split(folder)
        if server.startswith("http"):
            raise StorageError(f"{urls.redact(folder)} cannot be listed; plain HTTP has no lists. Name the files.")

        def collect(place: Any, path: str) -> dict[str, int]:  # noqa: ANN401
            pages = obstore.list(place, prefix=path or None)
            return {entry["path"]: int(entry["size"]) for page in pages for entry in page}

        begin = f"{prefix}/" if prefix else ""
        found = self._try(folder, collect)
        return {path.removeprefix(begin): size for path, size in sorted(found.items()) if path.startswith(begin)}

    def _try(self, url: str, action: Callable[[Any, str], T], *, parts: bool = False) -> T:
        """Do something with the store and the path that a URL means, again and again while it may help.

        With `parts`, obstore tries each of its requests again, so that one fault does not cost a whole upload.
        """
        server, path = urls.split(url)
        _refuse_fork(url)
        retries = self._attempts if parts and not server.startswith("http") else 0
        attempts = min(WHOLE_ATTEMPTS, self._attempts) if retries else self._attempts
        for attempt in range(1, attempts + 1):
            with self._lock:
                self.traffic["requests"] += 1
                self.traffic["retries"] += attempt > 1
            try:
                return action(self._store(server, retries), path)
            except StorageError:
                raise
            except (exceptions.BaseError, ShortReadError, OSError) as error:
                cause = faults.name_cause(error, self._secrets())
                if (lasting := faults.explain(error, url, cause)) is not None:
                    raise lasting from None
            except BaseException as error:
                if type(error).__name__ != "PanicException":
                    raise
                raise ConfigError(
                    f"{urls.redact(url)} cannot be asked for: the endpoint, a key or a token has a character that "
                    "cannot be sent, such as the end of a line. Check storage_options, environment and profile."
                ) from None
            if attempt < attempts:
                longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt)
                time.sleep(random.uniform(0.1, 1) * longest)
        raise StorageError(
            f"{urls.redact(url)} cannot be read or written: {attempts} attempts failed, the last with: {cause}. "
            "Try again when the server answers."
        )

    def _store(self, server: str, retries: int = 0) -> Any:  # noqa: ANN401
        """This process's connection to a bucket or server."""
        with self._lock:
            if (server, retries) not in self._stores:
                self._stores[server, retries] = self._open(server, retries)
            return self._stores[server, retries]

    def _open(self, server: str, retries: int) -> Any:  # noqa: ANN401
        """Prepare a connection; nothing is sent yet."""
        # Whether requests may go unencrypted follows from the addresses; Azure's client breaks where it is given there.
        given = {name: value for name, value in self._options.items() if name not in (*TIMEOUTS, "allow_http")}
        if server.startswith("s3:"):
            given |= s3_options(given)
        if server.startswith("http"):
            given = {}
        pauses = {"init_backoff": FIRST_PAUSE_SECONDS, "max_backoff": LONGEST_PAUSE_SECONDS}
        backoff = {name: timedelta(seconds=seconds) for name, seconds in pauses.items()}
        patience = {"max_retries": retries, "backoff": backoff}
        addresses = _addresses(server, given)
        client: dict[str, Any] = {"allow_http": any(address.startswith("http:") for address in addresses.values())}
        for name, seconds in TIMEOUTS.items():
            client[name] = timedelta(seconds=_seconds(name, self._options.get(name, seconds)))
        try:
            return store.from_url(server, client_options=client, retry_config=patience, **given)  # type: ignore[call-overload]
        except (exceptions.BaseError, ValueError, TypeError) as error:
            cause = faults.name_cause(error, self._secrets())
            raise ConfigError(
                f"{urls.redact(server)} cannot be opened: {cause}. Check storage_options "
                f"({', '.join(sorted(self._options)) or 'none given'}) and the environment."
            ) from None

    def _secrets(self) -> tuple[str, ...]:
        """Values that no message may show."""
        return tuple(str(value) for name, value in self._options.items() if urls.is_secret(name) and str(value))


def _version(meta: Mapping[str, Any]) -> Version:
    """Which content an object's metadata tell of."""
    return Version(int(meta["size"]), str(meta["e_tag"] or meta["last_modified"]))


def _refuse_fork(url: str) -> None:
    """Raise where a request would wait forever: the threads that serve it are those of the process before a fork."""
    global _user
    _user = _user or os.getpid()
    if _user != os.getpid():
        raise EnvironmentProblem(
            f"{urls.redact(url)} cannot be read in a process that was forked from one that had read object storage: "
            "the threads that do so are not in it. Start processes with multiprocessing's 'spawn' or 'forkserver' "
            '(DataLoader(…, multiprocessing_context="spawn")), or fork before anything is read.'
        )


def _addresses(server: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Addresses that requests may go to, by the name of who set them; those that begin with http: are not encrypted.

    Raises:
        ConfigError: One is not an address.
    """
    found = {name: str(value) for name, value in given.items() if re.search("endpoint|base_url", name, re.IGNORECASE)}
    for name in _ENDPOINTS.get(server.split(":")[0], ()):
        if address := os.environ.get(name):
            found[name] = address
    for name, address in found.items():
        try:
            good = urlsplit(address).scheme in {"http", "https"} and bool(urlsplit(address).hostname)
        except ValueError:
            good = False
        if not good:
            shown = urls.redact(address if "://" in address else address.rpartition("@")[2].split("?")[0])
            raise ConfigError(f"{name}={shown!r} must be an address such as https://storage.example.org:9000.")
    return found | {"": server}


def _seconds(name: str, value: object) -> float:
    """An option that is a time."""
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"storage_options: {name}={value!r} must be a positive number of seconds.")
    return seconds
