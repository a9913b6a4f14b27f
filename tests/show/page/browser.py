"""A real browser, driven over a pipe: Chromium's DevTools protocol with the standard library alone.

``--remote-debugging-pipe``: the browser reads commands from its descriptor 3 and writes answers and
events to 4, each a JSON text that ends in a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

__all__ = ["Browser", "chromium_path"]

_WITHIN_S = 60


def chromium_path() -> str | None:
    """Return where Chromium is, under the names that distributions give it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """A headless Chromium with one tab, and all that the tab logged and asked the network for."""

    def __init__(self, path: str, folder: Path) -> None:
        self.logged: list[str] = []
        self.requested: list[str] = []
        self._answers: dict[int, Mapping[str, Any]] = {}
        self._events: list[str] = []
        self._unread = b""
        self._number = 0
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [
            path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--no-first-run", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={folder}",
        ]  # fmt: skip
        # A shell puts the pipe's ends where the browser looks for them.
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        with (folder / "stderr").open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", script, *command],
                pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: object) -> Mapping[str, Any]:
        """Return the answer to one command."""
        self._number += 1
        number = self._number
        command: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._out, json.dumps(command).encode() + b"\0")
        self._until(lambda: number in self._answers, method)
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer)
        found: Mapping[str, Any] = answer["result"]
        return found

    def open(self, page: Path, width: int, height: int = 900) -> None:
        """Show a page in a window of so many pixels, and forget what earlier pages did."""
        self.logged.clear()
        self.requested.clear()
        self._events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.call("Page.navigate", url=page.as_uri())
        self._until(lambda: "Page.loadEventFired" in self._events, "loading")
        # Whatever a page would still ask for, it asks for soon.
        self.evaluate("new Promise(done => setTimeout(done, 200))")

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, into: Path) -> None:
        """Save a picture of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        into.write_bytes(base64.b64decode(answer["data"]))

    def print(self) -> bytes:
        """Return the page as a PDF."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])

    def _until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _WITHIN_S
        while not done():
            left = end - time.monotonic()
            assert left > 0, f"the browser did not come back from {what}"
            if select.select([self._in], [], [], left)[0]:
                read = os.read(self._in, 1 << 20)
                assert read, f"the browser ended in {what}"
                *texts, self._unread = (self._unread + read).split(b"\0")
                for text in texts:
                    self._take(json.loads(text))

    def _take(self, message: Mapping[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, told = message["method"], message.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])
        elif method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.logged.append(json.dumps(told))
