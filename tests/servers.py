"""Servers for tests of storage, on loopback: S3 by moto, Ceph's radosgw, folders by HTTP, and a proxy with faults.

tests/conftest.py makes fixtures of them: `s3`, `faulty_s3`, `radosgw` and `http_folder`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from tiny import free_port

FOREIGN = re.compile(r"^(AWS_|AZURE_|GOOGLE_)|^(ALL|HTTPS?|NO)_PROXY$", re.IGNORECASE)
"""Variables of a user's own environment that would lead obstore or boto3 elsewhere than to the test's server."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def isolate(patch: pytest.MonkeyPatch, empty: Path) -> None:
    """Hide the user's credentials, profiles and proxies until the test ends; `empty` is a folder without files."""
    for name in [name for name in os.environ if FOREIGN.search(name)]:
        patch.delenv(name)
    patch.setenv("AWS_CONFIG_FILE", str(empty / "no-config"))
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(empty / "no-credentials"))
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@dataclass(frozen=True)
class S3Server:
    """Where an S3 server answers, and for whom."""

    endpoint: str
    key: str = "AKIATESTING000000000"
    secret: str = "testing-secret-of-the-server"
    region: str = "us-east-1"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which AWS tools find it."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    @cached_property
    def client(self):
        """boto3's client, which shares no code with what is tested."""
        return self.service("s3")

    def service(self, name: str):
        """boto3's client of one of the services that moto has; it looks at no file and no variable."""
        import boto3
        from botocore.config import Config

        style = Config(s3={"addressing_style": "path"}, proxies={})
        login = {"aws_access_key_id": self.key, "aws_secret_access_key": self.secret, "region_name": self.region}
        return boto3.client(name, endpoint_url=self.endpoint, config=style, **login)

    def make_bucket(self) -> Bucket:
        """A new bucket of a name that nobody had."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return Bucket(self, name)

    @contextmanager
    def permissions(self) -> Iterator[None]:
        """Let moto check signatures and policies of every request meanwhile; else it lets everybody do everything."""
        self._check_after("0")
        try:
            yield
        finally:
            self._check_after("inf")

    def _check_after(self, requests: str) -> None:
        plain = {"Content-Type": "text/plain"}  # moto finds nothing in a form
        address = f"{self.endpoint}/moto-api/reset-auth"
        _DIRECT.open(urllib.request.Request(address, requests.encode(), plain), timeout=30).close()


@dataclass
class Bucket:
    """A bucket of a test, seen past Wildstream and past all faults."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        """Its location, s3://bucket-…"""
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes | Path) -> str:
        """Store bytes or a file's content; gives the URL."""
        content = data.read_bytes() if isinstance(data, Path) else data
        self.server.client.put_object(Bucket=self.name, Key=key, Body=content)
        return f"{self.url}/{key}"

    def put_folder(self, folder: Path, prefix: str = "") -> str:
        """Store every file below a folder; gives the URL of the folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put("/".join(filter(None, [prefix, path.relative_to(folder).as_posix()])), path)
        return "/".join(filter(None, [self.url, prefix]))

    def get(self, key: str) -> bytes:
        """What an object holds."""
        with self.server.client.get_object(Bucket=self.name, Key=key)["Body"] as body:
            return body.read()

    def list(self, prefix: str = "") -> dict[str, int]:
        """Keys and sizes."""
        pages = self.server.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}

    def delete(self, key: str) -> None:
        """Delete an object."""
        self.server.client.delete_object(Bucket=self.name, Key=key)

    def remove(self) -> None:
        """Delete the bucket and all that is in it."""
        keys = [{"Key": key} for key in self.list()]
        for begin in range(0, len(keys), 1000):  # the most that one request may name
            self.server.client.delete_objects(Bucket=self.name, Delete={"Objects": keys[begin : begin + 1000]})
        self.server.client.delete_bucket(Bucket=self.name)


@dataclass
class FaultyBucket(Bucket):
    """A bucket that Wildstream reaches through a proxy with faults, while `put`, `get` and `list` go past it."""

    proxy: FaultProxy = field(kw_only=True)


@contextmanager
def moto_process(log: Path) -> Iterator[S3Server]:
    """moto's server in a process of its own, for as long as the context lasts."""
    server = S3Server(f"http://127.0.0.1:{free_port()}")
    port = str(urlsplit(server.endpoint).port)
    environment = {name: value for name, value in os.environ.items() if not FOREIGN.search(name)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", port], stdout=output, stderr=output, env=environment
        )
    try:
        _await_answer(server.endpoint, process, log)
        yield server
    finally:
        if "client" in vars(server):
            server.client.close()
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_answer(endpoint: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            _DIRECT.open(f"{endpoint}/moto-api/data.json", timeout=10).close()
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"moto's server does not answer:\n{log.read_text()}")


class LoopbackServer(ThreadingHTTPServer):
    """An HTTP server in a thread of this process, for as long as the context lasts."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.requests: list[tuple[str, str]] = []
        """Method and path of every request that came."""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """Clients that give up are what is tested; the rest shall be seen."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open, as S3 does, and logs nothing."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    server: LoopbackServer

    def log_message(self, *_) -> None:
        return

    def note(self) -> None:
        """Remember that a request came."""
        with self.server.lock:
            self.server.requests.append((self.command, self.path))

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes = b"") -> None:
        """Send a whole answer; the caller gives its headers, Content-Length too."""
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def refuse(self, status: int, code: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Send an error as S3 does."""
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.answer(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body))), *headers], body)

    def reset(self) -> None:
        """End the connection with RST, without the rest of the answer."""
        with suppress(OSError):
            self.wfile.flush()
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


REFUSALS = {
    "slow_down": (503, "SlowDown"),
    "too_many": (429, "TooManyRequests"),
    "internal": (500, "InternalError"),
    "forbidden": (403, "AccessDenied"),
    "unauthorised": (401, "InvalidToken"),
    "missing": (404, "NoSuchKey"),
    "bad_request": (400, "InvalidArgument"),
}
BODY_FAULTS = ("reset_midway", "stall", "truncated", "short", "etag", "no_ranges")
FAULTS = (*REFUSALS, "reset", "slow_first_byte", *BODY_FAULTS)
"""What the proxy can do.

slow_down, too_many, internal, forbidden, unauthorised, missing, bad_request: answer with an error; nothing is forwarded
reset              reset the connection before the answer
slow_first_byte    let the client wait for `slow_seconds` before the answer begins
reset_midway       reset the connection when half of the body is sent
stall              send half of the body, then nothing for `stall_seconds`
truncated          announce the whole body, send half of it, close
short              send half of the body and say that it is all that there is
etag               answer as if the object had another ETag
no_ranges          answer a request for a range with the whole object
"""


class FaultProxy(LoopbackServer):
    """Forwards requests to a server and injects faults, each at its rate.

    The seed gives the n-th request its fault. Faults of bodies befall only GET requests that are answered with 2xx.
    """

    def __init__(self, upstream: str, handler: type[BaseHTTPRequestHandler] | None = None) -> None:
        super().__init__(handler or _ProxyHandler)
        self.upstream = urlsplit(upstream).netloc
        self.forwarded: Counter[str] = Counter()
        """Requests that reached the server, by method."""
        self.injected: Counter[str] = Counter()
        """Faults that happened."""
        self.inject()

    def inject(
        self,
        rates: dict[str, float] | None = None,
        *,
        seed: int = 0,
        latency_ms: float = 0,
        stall_seconds: float = 30,
        slow_seconds: float = 0.1,
        keys: str = "",
    ) -> None:
        """From now on, inject faults at these rates, and latency in every request; counts begin anew.

        `keys` is a regular expression; requests whose path it is not found in are forwarded as they are.
        """
        rates = rates or {}
        assert set(rates) <= set(FAULTS), f"unknown fault among {sorted(rates)}"
        assert 0 <= sum(rates.values()) <= 1
        with self.lock:
            self.rates, self.keys, self.latency = rates, re.compile(keys), latency_ms / 1000
            self.stall_seconds, self.slow_seconds = stall_seconds, slow_seconds
            self.random = random.Random(seed)
            self.forwarded.clear()
            self.injected.clear()
            self.requests.clear()

    def draw(self, path: str) -> str | None:
        """The fault of the request that comes now, if any."""
        if not self.keys.search(unquote(path)):
            return None
        with self.lock:
            number = self.random.random()
            for fault, rate in self.rates.items():
                if number < rate:
                    return fault
                number -= rate
        return None

    def count(self, counter: Counter[str], name: str) -> None:
        with self.lock:
            counter[name] += 1


class _ProxyHandler(QuietHandler):
    server: FaultProxy

    def do_GET(self) -> None:
        self.note()
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.draw(self.path)
        if proxy.latency:
            proxy.stopping.wait(proxy.latency)
        if fault in REFUSALS:
            proxy.count(proxy.injected, fault)
            self.refuse(*REFUSALS[fault])
            return
        if fault == "reset":
            proxy.count(proxy.injected, fault)
            self.reset()
            return
        if fault == "no_ranges":
            del self.headers["Range"]
        status, headers, content = self.forward(body)
        if fault == "slow_first_byte":
            proxy.count(proxy.injected, fault)
            proxy.stopping.wait(proxy.slow_seconds)
        if fault in BODY_FAULTS and self.command == "GET" and 200 <= status < 300:
            proxy.count(proxy.injected, fault)
            self.spoil(fault, status, headers, content)
        else:
            self.answer(status, headers, content)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the server the same; the Host header too is as the client signed it."""
        proxy = self.server
        proxy.count(proxy.forwarded, self.command)
        upstream = HTTPConnection(proxy.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        hops = {"connection", "transfer-encoding", "keep-alive", "content-length"}
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in hops]
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        if length is not None and answer.status not in {204, 304}:
            headers.append(("Content-Length", length))
        return answer.status, headers, content

    def spoil(self, fault: str, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        """Answer with a fault in the body, or in what the headers say of it."""
        half = content[: len(content) // 2]
        if fault == "etag":
            self.answer(status, replaced(headers, "ETag", '"0123456789abcdef0123456789abcdef"'), content)
        elif fault == "short":
            self.answer(status, replaced(headers, "Content-Length", str(len(half))), half)
        elif fault == "no_ranges":
            self.answer(status, headers, content)
        else:
            self.answer(status, headers, half)
            if fault == "stall":
                self.server.stopping.wait(self.server.stall_seconds)
            if fault == "truncated":
                self.close_connection = True
            else:
                self.reset()


class GoogleServer(FaultProxy):
    """GCS's XML interface before moto, whose S3 differs from it in how requests are signed and conditions are named."""

    @property
    def options(self) -> dict[str, str]:
        """Storage options of an account that may do everything here."""
        keys = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        return {"base_url": self.endpoint, "service_account_key": json.dumps(keys | {"disable_oauth": True})}

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, _GoogleHandler)


class _GoogleHandler(_ProxyHandler):
    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the server as S3's clients do."""
        path, *query = self.path.split("?", 1)
        self.path = "?".join([quote(unquote(path)), *query])  # Google's clients escape slashes
        del self.headers["Authorization"]
        self.headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=nobody/20260101/us-east-1/s3/aws4_request"
        generation = self.headers["x-goog-if-generation-match"]
        if generation is not None:
            assert generation == "0", "only that nothing is there yet"
            self.headers["If-None-Match"] = "*"
        return super().forward(body)


def replaced(headers: list[tuple[str, str]], name: str, value: str) -> list[tuple[str, str]]:
    """Headers in which one has another value."""
    return [(key, value if key.lower() == name.lower() else old) for key, old in headers]


class FolderServer(LoopbackServer):
    """A folder by HTTP, like nginx: ranges, strong ETags, If-Match; each can be turned off; ETags can be weak."""

    def __init__(self, root: Path, *, ranges: bool = True, etags: str = "strong", if_match: bool = True) -> None:
        super().__init__(_FolderHandler)
        assert etags in {"strong", "weak", "none"}
        self.root, self.ranges, self.etags, self.if_match = root, ranges, etags, if_match

    @property
    def url(self) -> str:
        """The location of the folder."""
        return self.endpoint


class _FolderHandler(QuietHandler):
    server: FolderServer

    def do_GET(self) -> None:
        self.note()
        path = self.server.root / unquote(urlsplit(self.path).path).lstrip("/")
        if not path.is_file() or not path.resolve().is_relative_to(self.server.root.resolve()):
            self.answer(404, [("Content-Length", "0")])
            return
        content = path.read_bytes()
        headers = [("Last-Modified", self.date_time_string(path.stat().st_mtime))]
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if self.server.etags != "none":
            headers.append(("ETag", tag if self.server.etags == "strong" else f"W/{tag}"))
        if self.server.if_match and self.headers.get("If-Match", tag) != tag:  # a weak one is never equal
            self.answer(412, [*headers, ("Content-Length", "0")])
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.server.ranges else None
        if asked is None:
            self.answer(200, [*headers, ("Content-Length", str(len(content)))], content)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first >= len(content):
            self.answer(416, [("Content-Range", f"bytes */{len(content)}"), ("Content-Length", "0")])
            return
        part = content[first : last + 1]
        span = ("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.answer(206, [*headers, span, ("Content-Length", str(len(part)))], part)

    do_HEAD = do_GET
