"""A real Chromium without a window, driven over its DevTools protocol through a pipe.

With --remote-debugging-pipe it reads commands from descriptor 3 and writes answers to 4, JSON
with a NUL after each: no port, and no library for web sockets.
https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest

PATIENCE = 60


def find_chromium() -> str:
    """Return the program; without it skip, or fail in CI."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    text = "no chromium: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


class Chromium:
    """A browser with one page; it ends with the block, and everything that it started."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        self._session = ""
        self._received = b""
        self.events: list[tuple[str, Any]] = []
        """What the page reported, oldest first: the name of an event, and its parameters."""

    def __enter__(self) -> Self:
        for_browser, self._to_browser = os.pipe()
        self._from_browser, of_browser = os.pipe()
        command = [find_chromium(), "--headless", "--remote-debugging-pipe", "--disable-gpu"]
        command += [f"--user-data-dir={self._directory / 'profile'}", "--no-first-run"]
        command += ["--no-sandbox", "--disable-dev-shm-usage", "--disable-component-update"]
        command += ["--disable-background-networking", "--disable-sync", "about:blank"]
        # The shell gives the two pipes the numbers that the protocol demands.
        shuffle = f'exec "$@" 3<&{for_browser} 4>&{of_browser}'
        with (self._directory / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", shuffle, "bash", *command],
                pass_fds=(for_browser, of_browser),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A group of its own, so that its children end with it in any case.
                start_new_session=True,
            )
        os.close(for_browser)
        os.close(of_browser)
        try:
            targets = self.do("Target.getTargets")["targetInfos"]
            (page,) = [each["targetId"] for each in targets if each["type"] == "page"]
            attached = self.do("Target.attachToTarget", targetId=page, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Log", "Runtime", "Network"):
                self.do(f"{domain}.enable")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        os.close(self._to_browser)
        os.close(self._from_browser)

    # The protocol.

    def do(self, method: str, **parameters: Any) -> Any:
        """Run a command and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            message = self._receive(deadline)
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _receive(self, deadline: float) -> Any:
        """Return the next message; events are kept too."""
        while b"\0" not in self._received:
            left = deadline - time.monotonic()
            assert left > 0, f"chromium does not answer: {self._log()}"
            if select.select([self._from_browser], [], [], left)[0]:
                piece = os.read(self._from_browser, 1 << 20)
                assert piece, f"chromium ended: {self._log()}"
                self._received += piece
        text, _, self._received = self._received.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def _log(self) -> str:
        return (self._directory / "chromium.log").read_text(errors="replace")[-2000:]

    # What a person does.

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.events.clear()
        answer = self.do("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        deadline = time.monotonic() + PATIENCE
        while not any(name == "Page.loadEventFired" for name, _ in self.events):
            self._receive(deadline)

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.do(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """Return what a person can read, without running the page's JavaScript."""
        text = self.ask("document.body.innerText")
        assert isinstance(text, str)
        return text

    def complaints(self) -> list[str]:
        """Return what a developer's console would show: policy, errors, exceptions."""
        self.ask("0")  # receives the events that are on their way
        found = [each["entry"]["text"] for name, each in self.events if name == "Log.entryAdded"]
        found += [str(each) for name, each in self.events if name == "Runtime.exceptionThrown"]
        return found

    def requested(self) -> list[str]:
        """Return the URLs that were requested since the page was opened."""
        return [
            each["request"]["url"]
            for name, each in self.events
            if name == "Network.requestWillBeSent"
        ]

    def screenshot(self) -> bytes:
        """Return the visible page as PNG."""
        return base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"])

    def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """Set the size of the window, or of a phone's screen."""
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=is_phone,
        )

    def prefer(self, **features: str) -> None:
        """Set what the person prefers: prefers_color_scheme="dark"."""
        media = [{"name": key.replace("_", "-"), "value": features[key]} for key in features]
        self.do("Emulation.setEmulatedMedia", features=media)

    def accessibility(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return what a screen reader gets: role, name and properties of each node."""
        nodes = self.do("Accessibility.getFullAXTree")["nodes"]
        return [
            (
                node["role"]["value"],
                node.get("name", {}).get("value", ""),
                {each["name"]: each["value"].get("value") for each in node.get("properties", ())},
            )
            for node in nodes
            if not node["ignored"]
        ]
