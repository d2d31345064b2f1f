"""A real browser, driven by chromedriver over W3C WebDriver, which is JSON over HTTP: nothing else is needed for it.

Chromium's network is off: no host name is known, and what is asked of an address goes to a proxy that is not there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromedriver")
PACKAGES = "Debian's packages chromium and chromium-driver"
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:9",
    "--window-size=1280,900",
)
LOGS = {"browser": "ALL", "performance": "ALL"}


def missing() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


class Browser:
    """One window. Scripts are run in the page and give back what JSON can hold."""

    def __init__(self, url: str) -> None:
        chrome = {"binary": shutil.which("chromium"), "args": list(OPTIONS)}
        wanted = {"browserName": "chrome", "goog:chromeOptions": chrome, "goog:loggingPrefs": LOGS}
        self._url = f"{url}/session"
        session = self._post("", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/{session['sessionId']}"

    def open(self, page: Path) -> None:
        self._post("/url", {"url": page.as_uri()})

    def run(self, script: str, *given: Any) -> Any:
        return self._post("/execute/sync", {"script": script, "args": list(given)})

    def command(self, name: str, **parameters: Any) -> Any:
        """One of the DevTools protocol."""
        return self._post("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def look(self, width: int, scheme: str = "light") -> None:
        """Give the page a window of this width, and this preference of colours; wait until it has been laid out."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[feature])
        settled = "return [document.documentElement.scrollHeight, innerWidth, document.querySelectorAll('*').length]"
        before = None
        while (now := self.run(settled)) != before:
            before = now
            time.sleep(0.25)

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What came since the last call: of the console, or of the DevTools protocol."""
        entries: list[dict[str, Any]] = self._post("/se/log", {"type": kind})
        return entries

    def picture(self, file: Path) -> None:
        """The whole page as a PNG."""
        taken = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self._url, method="DELETE"), timeout=20).close()

    def _post(self, path: str, what: dict[str, Any]) -> Any:
        body = json.dumps(what).encode()
        request = urllib.request.Request(self._url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]


@contextlib.contextmanager
def browsing() -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}", "--log-level=OFF"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(port)
        browser = Browser(f"http://127.0.0.1:{port}")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(timeout=20)


def _wait(port: int) -> None:
    """Until chromedriver listens."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError("chromedriver does not listen")
