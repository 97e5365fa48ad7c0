"""A headless Chromium, driven through its DevTools pipe, and a page served on loopback."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_fixtures import build

from embedkit import web
from embedkit.errors import UserError

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
]  # fmt: skip

# Put two pipes at 3 and 4, where Chromium looks for them, and become Chromium.
BECOME = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for place, fd in zip((3, 4), ends):
    os.dup2(fd, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of one Chromium. Commands and events are JSON documents that end in a zero byte, on its fds 3 and 4."""

    def __init__(self, chromium: str, profile: Path, *flags: str) -> None:
        out_read, self._out = os.pipe()
        in_write = os.pipe()
        self._in, written = in_write
        command = [chromium, *FLAGS, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", BECOME, str(out_read), str(written), *command],
            pass_fds=(out_read, written),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(out_read)
        os.close(written)
        self._file = os.fdopen(self._in, "rb", buffering=0)
        self._rest = b""
        self._asked = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; what happens meanwhile is noted."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._asked:
                assert "error" not in said, (method, said["error"])
                return said["result"]
            self._note(said)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            heard = self._file.read(1 << 16)
            assert heard, "Chromium has gone"
            self._rest += heard
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)

    def _note(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        if said.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif said.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif said.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(json.dumps(params["entry"]))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 240) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            shown = self.run("document.body.innerText")
            assert time.monotonic() < end, f"{script} is not true after {seconds} s; the page says: {shown}"
            time.sleep(0.2)

    def open(self, address: str) -> None:
        self.ask("Page.navigate", url=address)
        self.wait("document.body?.dataset.state && document.body.dataset.state !== 'loading'")

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in an input, as a person would."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def picture(self, path: Path) -> None:
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self._session = None
        try:
            self.ask("Browser.close")
        finally:
            os.close(self._out)
            self._process.wait(timeout=30)
            self._file.close()


@pytest.fixture(scope="session")
def loudness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole and valid exported file of 1 kB: loud sounds angry to it, quiet sounds sad."""
    return build(tmp_path_factory.mktemp("exported") / "loudness.onnx")


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no chromium; on Debian: apt-get install chromium")
    return found


@pytest.fixture
def browse(chromium: str, tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    """browse(*flags): a fresh browser, closed at the test's end."""
    opened: list[Browser] = []

    def browse(*flags: str) -> Browser:
        opened.append(Browser(chromium, tmp_path / f"profile{len(opened)}", *flags))
        return opened[-1]

    yield browse
    for browser in opened:
        browser.close()


@pytest.fixture(scope="session")
def package() -> Path:
    """onnxruntime-web, from npm or the user's cache."""
    try:
        return web.fetch_runtime()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """served(folder): the address of the page in it, served until the test's end."""
    running = []

    def serve(folder: Path) -> str:
        server = web.make_server(folder, port=0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return f"http://localhost:{server.server_port}/"

    yield serve
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()
