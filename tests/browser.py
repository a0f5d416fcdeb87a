"""A page in a headless Chromium, over its debugging pipe: what it says on the console, asks for, and draws."""

import json
import os
import shutil
import subprocess
import tempfile
from base64 import b64decode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str:
    """A Chromium of this machine, or that of WILDSTREAM_TEST_CHROMIUM; the test is skipped without one."""
    found = os.environ.get("WILDSTREAM_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium on PATH ({', '.join(NAMES)}); WILDSTREAM_TEST_CHROMIUM may name one")
    return found


@dataclass(kw_only=True)
class Seen:
    """What became of a page."""

    complaints: list[str] = field(default_factory=list)
    """What the console says: errors, warnings, exceptions, what the page's own policy forbade."""
    requests: list[str] = field(default_factory=list)
    """What it asked for beside itself and what it holds."""
    images: list[tuple[bool, int]] = field(default_factory=list)
    """Of each image whether it is complete, and its width in pixels; 0 if it could not be drawn."""
    text: str = ""
    """All that can be read."""
    overflow: int = 0
    """Pixels by which the page is wider than the screen."""
    screenshot: bytes = b""
    """All of it, as PNG."""


def look_at(page: Path, *, width: int = 1280, dark: bool = False) -> Seen:
    """Open a file in Chromium on a screen of so many pixels."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = _Browser(find_chromium(), profile)
        try:
            return browser.look_at(page, width, dark)
        finally:
            browser.close()


class _Browser:
    def __init__(self, program: str, profile: str) -> None:
        reads, self.writes = os.pipe()
        self.reads, writes = os.pipe()
        options = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run --disable-extensions"
        command = f'exec "$0" {options} --user-data-dir="$1" 3<&{reads} 4>&{writes}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, program, profile], pass_fds=(reads, writes), stderr=subprocess.DEVNULL
        )
        os.close(reads)
        os.close(writes)
        self.number, self.rest = 0, b""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.writes)
        os.close(self.reads)

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        os.write(self.writes, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.reads, 1 << 20)
            assert part, "Chromium ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        found = json.loads(message)
        if "method" in found:
            self.events.append(found)
        return found

    def look_at(self, page: Path, width: int, dark: bool) -> Seen:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable", session)
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", session, **screen)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", session, features=theme)
        self.call("Page.navigate", session, url=page.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.receive()

        def evaluate(expression: str) -> Any:
            return self.call("Runtime.evaluate", session, expression=expression, returnByValue=True)["result"]["value"]

        seen = Seen(
            images=[
                tuple(one) for one in evaluate("[...document.images].map(one => [one.complete, one.naturalWidth])")
            ],
            text=evaluate("document.body.innerText"),
            overflow=evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"),
        )
        shot = self.call("Page.captureScreenshot", session, format="png", captureBeyondViewport=True)
        seen.screenshot = b64decode(shot["data"])
        own = page.absolute().as_uri()
        for event in self.events:
            name, said = event["method"], event["params"]
            if name in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                seen.complaints.append(json.dumps(said))
            elif name == "Network.requestWillBeSent":
                url = said["request"]["url"]
                seen.requests += [] if url == own or url.startswith("data:") else [url]
        return seen
