"""A headless Chromium, driven over pipes by the DevTools protocol."""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """Return the path of a browser, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Tab:
    """A page in the browser."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer, self._number, self._session = reader, writer, 0, None
        self.errors: list[str] = []
        """Messages of the console that report errors."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Log.enable")
        self.call("Runtime.enable")
        self.call("Page.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while True:
            found = self._receive()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return dict(found["result"])

    def open(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            pass

    def run(self, code: str) -> Any:
        """Return the value of an expression, or of its promise."""
        found = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def _receive(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._reader.read(1)) != b"\0":
            assert byte, "the browser has ended"
            data += byte
        found: dict[str, Any] = json.loads(data)
        if found.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(found["params"]))
        entry = found["params"]["entry"] if found.get("method") == "Log.entryAdded" else {}
        if entry.get("level") == "error":
            self.errors.append(entry["text"])
        return found


@contextmanager
def open_tab(browser: str, folder: Path) -> Iterator[Tab]:
    """Run a browser with its profile in `folder` inside the block."""
    commands, answers = os.pipe(), os.pipe()
    read, write = (fcntl.fcntl(handle, fcntl.F_DUPFD, 10) for handle in (commands[0], answers[1]))

    def connect() -> None:
        os.dup2(read, 3)
        os.dup2(write, 4)

    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        [browser, *options], pass_fds=(3, 4), preexec_fn=connect, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for handle in (commands[0], answers[1], read, write):
        os.close(handle)
    try:
        with os.fdopen(answers[0], "rb") as reader, os.fdopen(commands[1], "wb") as writer:
            tab = Tab(reader, writer)
            yield tab
            tab.call("Browser.close")
    finally:
        process.kill()
        process.wait()
