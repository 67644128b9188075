"""A headless Chromium, driven over its DevTools protocol: for tests, measurements and pictures of the page."""

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

PROGRAM = next((path for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
                if (path := shutil.which(name))), None)
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-dev-shm-usage --mute-audio --hide-scrollbars "
         "--remote-debugging-port=0 --remote-allow-origins=*").split()
KEY_CODES = {"Space": " ", "Enter": "Enter", "Escape": "Escape"} | {f"Key{c}": c.lower() for c in
                                                                     "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
START_SECONDS = 30


class Page:
    """A browser with one page. As a context manager it ends the browser."""

    def __init__(self, address: str = "about:blank", width: int = 1280, height: int = 900, dark: bool = False):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.open = contextlib.ExitStack()
        self.process = subprocess.Popen(
            [PROGRAM, *FLAGS, f"--user-data-dir={self.folder.name}", f"--window-size={width},{height}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.errors, self.number, self.socket = [], 0, None
        try:
            self._attach()
            self.size(width, height)
            self.send("Emulation.setEmulatedMedia", features=[
                {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
            self.go(address)
        except BaseException:
            self.close()
            raise

    def _attach(self):
        end = time.monotonic() + START_SECONDS
        port = Path(self.folder.name, "DevToolsActivePort")
        while not port.exists() or not port.read_text().strip():
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"{PROGRAM} does not start (exit code {self.process.poll()})")
            time.sleep(.05)
        number = port.read_text().split()[0]
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{number}/json", timeout=START_SECONDS) as answer:
                targets = [target for target in json.load(answer) if target["type"] == "page"]
            if targets:
                break
            time.sleep(.05)
        self.socket = self.open.enter_context(connect(targets[0]["webSocketDebuggerUrl"], max_size=None, proxy=None))
        for domain in ("Page", "Runtime"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.open.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def send(self, method: str, **parameters) -> dict:
        """A command's result; what the page throws meanwhile is kept in `errors`."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=START_SECONDS))
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]

    def go(self, address: str) -> None:
        self.send("Page.navigate", url=address)
        loaded = "document.readyState === 'complete' && location.href !== 'about:blank'"
        self.wait(loaded if address != "about:blank" else "true")

    def size(self, width: int, height: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def run(self, script: str):
        """The value of an expression in the page, or what its promise becomes."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", script))
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 20.):
        """The first value of an expression that counts as true. TimeoutError: none came."""
        end = time.monotonic() + seconds
        while not (value := self._run_if_settled(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"still not true after {seconds} s: {script}")
            time.sleep(.05)
        return value

    def _run_if_settled(self, script: str):
        """None while the page makes way for the one that was asked for."""
        try:
            return self.run(script)
        except RuntimeError as error:
            if "navigated or closed" not in str(error):
                raise
            return None

    def key(self, code: str, down: bool) -> None:
        """Presses or releases a key, by the names of KeyboardEvent.code."""
        self.send("Input.dispatchKeyEvent", type="rawKeyDown" if down else "keyUp", code=code,
                  key=KEY_CODES.get(code, code))

    def picture(self, path: str | Path | None = None, clip: dict | None = None) -> bytes:
        """A PNG of the page, or of a part of it (x, y, width, height)."""
        options = {"clip": clip | {"scale": 1}} if clip else {}
        content = base64.b64decode(self.send("Page.captureScreenshot", format="png", **options)["data"])
        if path:
            Path(path).write_bytes(content)
        return content
