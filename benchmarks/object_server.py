"""Servers of objects on loopback, each in a process of its own: moto's S3, files by `sendfile`, a proxy with faults.

    moto      an S3 server for tests, in Python: what the benchmark streams from
    files     a folder, for those who ask as S3's clients do and those who ask by plain HTTP: takes hardly any processor
              time, so that one sees what the clients themselves can do
    proxy     forwards to another server, after so many milliseconds; answers some requests with 503, and resets the
              connection of as many; bodies go from socket to socket inside the kernel (splice)

`python -m benchmarks.object_server files FOLDER` and `proxy ADDRESS MILLISECONDS FAULTS` print the port and serve until
they are ended; `GET /counts` says how many requests and faults there were.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil

BUCKET = "benchmark"
LOGIN = {
    "AWS_ACCESS_KEY_ID": "AKIABENCHMARK0000000",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-benchmark",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
FAULTS = ("refused", "reset")
"""What the proxy does instead of forwarding, each in half of the faults: an answer of 503, a reset connection."""
LATENCY_MS = 50.0
FAULT_RATE = 0.1
"""Of the proxies among `all_servers`."""
_FOREIGN = re.compile(r"^(AWS|AZURE|GOOGLE)_|^(ALL|HTTPS?|NO)_PROXY$", re.IGNORECASE)
_PIPE_BYTES = 1 << 20
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def environment() -> dict[str, str]:
    """This process's variables, with the servers' login in place of the user's own, and without proxies."""
    return {name: value for name, value in os.environ.items() if not _FOREIGN.search(name)} | LOGIN


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    endpoint: str
    """Its address."""
    process: psutil.Process
    """Its process."""

    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def counts(self) -> dict[str, int]:
        """Requests and faults up to now; moto counts none."""
        with suppress(OSError, ValueError), _DIRECT.open(f"{self.endpoint}/counts", timeout=10) as answer:
            return dict(json.loads(answer.read()))
        return {}


@contextmanager
def moto() -> Iterator[Server]:
    """The server of moto, which keeps what it holds in memory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = environment() | {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 30)}
    with _started(["-m", "moto.server", "-p", str(port)], variables) as process:
        endpoint = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with suppress(OSError):
                _DIRECT.open(f"{endpoint}/moto-api/data.json", timeout=10).close()
                break
            time.sleep(0.1)
        else:
            raise RuntimeError("moto's server does not answer: pip install 'moto[s3,server]'")
        yield Server(endpoint, psutil.Process(process.pid))


@contextmanager
def files(folder: Path) -> Iterator[Server]:
    """A folder whose subfolders are buckets."""
    with _own("files", str(folder)) as server:
        yield server


@contextmanager
def proxy(upstream: Server, *, milliseconds: float = 0.0, faults: float = 0.0) -> Iterator[Server]:
    """A proxy before a server: each request waits so long, and this share of them fails."""
    with _own("proxy", upstream.endpoint, str(milliseconds), str(faults)) as server:
        yield server


def all_servers(stack: ExitStack, root: Path) -> dict[str, tuple[Server, ...]]:
    """By name, the server that is asked, and those behind it; `root` is the folder of the bucket's folder."""
    origin = stack.enter_context(moto())
    upload(root / BUCKET, origin)
    return {
        "local": (),
        "moto": (origin,),
        "files": (stack.enter_context(files(root)),),
        "proxy": (stack.enter_context(proxy(origin)), origin),
        "latency": (stack.enter_context(proxy(origin, milliseconds=LATENCY_MS)), origin),
        "faults": (stack.enter_context(proxy(origin, faults=FAULT_RATE)), origin),
    }


def upload(folder: Path, server: Server) -> None:
    """Put every file of a folder into the bucket, readable for all; `folder` is the bucket's."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=LOGIN["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=LOGIN["AWS_SECRET_ACCESS_KEY"],
        region_name=LOGIN["AWS_DEFAULT_REGION"],
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
    client.create_bucket(Bucket=BUCKET)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            client.put_object(Bucket=BUCKET, Key=name, Body=path.read_bytes(), ACL="public-read")
    client.close()


@contextmanager
def _own(*words: str) -> Iterator[Server]:
    """One of the servers of this module."""
    with _started(["-m", "benchmarks.object_server", *words], environment(), tells_port=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline() or 0)
        if not port:
            raise RuntimeError(f"the server {words[0]} did not start")
        yield Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))


@contextmanager
def _started(
    words: list[str], variables: dict[str, str], *, tells_port: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of this interpreter, which is ended with the context."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE if tells_port else log,
            stderr=log,
            env=variables,
            cwd=Path(__file__).parents[1],
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


# --- inside the process of a server -----------------------------------------------------------------------------------


@dataclass
class _Request:
    """What a client asks, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    """Everything up to the empty line, and what of the body came with it."""
    body_bytes: int
    """Bytes of the body that are still to come."""


class _Counts:
    """How many of what there were."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        """One more."""
        with self._lock:
            self._counts[name] += 1

    def answer(self) -> bytes:
        """All of them, as an answer to a request."""
        with self._lock:
            body = json.dumps(self._counts).encode()
        return _head("200 OK", {"Content-Length": len(body), "Content-Type": "application/json"}) + body


def _serve(answer: Callable[[socket.socket, _Request], bool], counts: _Counts, close: Callable[[], None]) -> None:
    """Print the port; answer each connection in a thread of its own for as long as `answer` gives True."""

    def converse(client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError), client:  # clients may leave
            while (request := _read_request(client)) is not None:
                if request.path == "/counts":
                    client.sendall(counts.answer())
                elif not answer(client, request):
                    break
        close()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=converse, args=(client,), daemon=True).start()


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """Everything up to the empty line, and what came behind it; nothing at the end of the connection."""
    found = b""
    while b"\r\n\r\n" not in found:
        more = connection.recv(1 << 16)
        if not more:
            return b"", b""
        found += more
    head, _, rest = found.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _read_request(client: socket.socket) -> _Request | None:
    """The next request of a connection; None at its end."""
    head, rest = _read_head(client)
    if not head:
        return None
    first, headers = _parse(head)
    method, path, _ = first.split(" ", 2)
    return _Request(method, path, headers, head + rest, int(headers.get("content-length", 0)) - len(rest))


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    """First line and headers; their names in small letters."""
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _head(status: str, headers: dict[str, Any]) -> bytes:
    """The beginning of an answer."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode()


def _serve_files(root: Path) -> None:
    """Files by GET and HEAD, whole or ranges; the kernel sends them."""
    counts = _Counts()

    def answer(client: socket.socket, request: _Request) -> bool:
        counts.add("requests")
        path = root / unquote(urlsplit(request.path).path).lstrip("/")
        try:
            file = path.open("rb")
        except OSError:
            client.sendall(_head("404 Not Found", {"Content-Length": 0}))
            return True
        with file:
            status = os.fstat(file.fileno())
            size, tag = status.st_size, f'"{status.st_size:x}-{status.st_mtime_ns:x}"'
            if request.headers.get("if-match", tag) != tag:
                client.sendall(_head("412 Precondition Failed", {"Content-Length": 0}))
                return True
            first, last, word = 0, size - 1, "200 OK"
            headers = {"ETag": tag, "Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT", "Accept-Ranges": "bytes"}
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
                first, last, word = int(asked[1]), min(int(asked[2] or size), size - 1), "206 Partial Content"
                headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            client.sendall(_head(word, {**headers, "Content-Length": last + 1 - first}))
            place = first
            while request.method == "GET" and place <= last:
                place += os.sendfile(client.fileno(), file.fileno(), place, last + 1 - place)
        return True

    _serve(answer, counts, lambda: None)


def _serve_proxy(upstream: str, milliseconds: float, faults: float) -> None:
    """Forward every request; each client's connection has one to the server."""
    address = urlsplit(upstream)
    counts, chance, drawing = _Counts(), random.Random(0), threading.Lock()
    mine = threading.local()

    def answer(client: socket.socket, request: _Request) -> bool:
        counts.add("requests")
        with drawing:
            number = chance.random()
        if milliseconds:
            time.sleep(milliseconds / 1000)
        if number < faults:
            fault = FAULTS[int(number / faults * len(FAULTS))]
            counts.add(fault)
            if fault == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            while request.body_bytes > 0:
                request.body_bytes -= len(client.recv(1 << 16))
            client.sendall(_head("503 Slow Down", {"Content-Length": 0}))
            return True
        if getattr(mine, "server", None) is None:
            mine.server = socket.create_connection((str(address.hostname), int(address.port or 80)))
            mine.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mine.pipe = os.pipe()
            fcntl(mine.pipe[1], F_SETPIPE_SZ, _PIPE_BYTES)
        mine.server.sendall(request.raw)
        _splice(client, mine.server, request.body_bytes, mine.pipe)
        head, rest = _read_head(mine.server)
        first, headers = _parse(head)
        client.sendall(head + rest)
        if request.method != "HEAD":
            _splice(mine.server, client, int(headers.get("content-length", 0)) - len(rest), mine.pipe)
        return first.startswith("HTTP/1.1") and headers.get("connection", "").lower() != "close"

    def close() -> None:
        if getattr(mine, "server", None) is not None:
            mine.server.close()
            for end in mine.pipe:
                os.close(end)

    _serve(answer, counts, close)


def _splice(source: socket.socket, target: socket.socket, count: int, pipe: tuple[int, int]) -> None:
    """Move so many bytes from one socket to another inside the kernel."""
    while count > 0:
        moved = os.splice(source.fileno(), pipe[1], min(count, _PIPE_BYTES))
        if not moved:
            raise ConnectionError("the connection ended before the body did")
        count -= moved
        while moved:
            moved -= os.splice(pipe[0], target.fileno(), moved)


if __name__ == "__main__":
    kind, where, *numbers = sys.argv[1:]
    if kind == "files":
        _serve_files(Path(where))
    else:
        _serve_proxy(where, *map(float, numbers))
