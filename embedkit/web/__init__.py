"""A static page that runs an exported file in the browser: the very file, through onnxruntime-web.

`write` lays down a folder that any static server can serve and that fetches nothing from elsewhere; `serve` is such a
server, for this machine alone. The page cuts a recording as `predict --no-vad` does: windows of 8 s, hop 8 s.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from embedkit import audio
from embedkit.errors import UserError
from embedkit.runtime import SHORTEST, model, speech
from embedkit.workspace import inside

PACKAGE = "onnxruntime-web@1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")  # of its dist/
PAGE = Path(__file__).parent / "page"
ASSETS = ("style.css", "app.js", "worker.js", "recorder.js", "index.html")  # the page itself last
ABOUT = "model.json"
TOLD = ("study", "arm", "head", "layer", "encoder", "profile", "weights", "version")  # of the metadata, on the page
PORT = 8000


# ---------------------------------------------------------------- the page


def write(exported: Path, folder: Path, package: Path | None = None) -> dict[str, Any]:
    """Lay the page for an exported file down in a folder (14 MB and the file itself); the page's HTML comes last.

    package: what `fetch` gave. Returns {folder, files, bytes}. Raises ModelError for a file that is damaged or not
    ours, UserError where the folder cannot be written or onnxruntime-web cannot be had.
    """
    _, meta = model.load(exported, threads=1)
    with tarfile.open(package or fetch()) as archive:
        content = {name: _member(archive, f"package/dist/{name}") for name in RUNTIME}
    content[exported.name] = exported.read_bytes()
    content[ABOUT] = json.dumps(_about(exported.name, content[exported.name], meta), indent=1).encode()
    content |= {name: (PAGE / name).read_bytes() for name in ASSETS}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            part = folder / f"{name}.part"
            part.write_bytes(data)
            part.replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder}: the page cannot be written there ({error.strerror}); give another folder") from None
    return {"folder": str(folder), "files": sorted(content), "bytes": sum(map(len, content.values()))}


def _about(name: str, exported: bytes, meta: dict[str, str]) -> dict[str, Any]:
    """What the page must know of the file, and the numbers by which the runtime cuts and refuses."""
    return {
        "model": name,
        "bytes": len(exported),
        "sha256": hashlib.sha256(exported).hexdigest(),  # by which the page knows a damaged one
        "labels": list(model.CLASSES),
        "rate": audio.RATE,
        "window": speech.WINDOW,
        "last": speech.LAST,
        "shortest": SHORTEST,
        "silent": audio.SILENT,
        "about": {key: meta[f"embedkit.{key}"] for key in TOLD if meta.get(f"embedkit.{key}")},
        "runtime": PACKAGE,
    }


# ---------------------------------------------------------------- onnxruntime-web


def fetch() -> Path:
    """The npm package of onnxruntime-web, at the version and with the digest that are pinned here.

    Kept in the user's cache folder, so that npm is asked once (33 MB). Raises UserError where it cannot be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedkit"
    package = cache / f"{PACKAGE.replace('@', '-')}.tgz"
    if package.is_file() and _digest(package) == INTEGRITY:
        return package
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        packed = _pack(Path(folder))
        if (found := _digest(packed)) != INTEGRITY:
            raise UserError(
                f"{PACKAGE} from npm has the SHA-512 {found[:12]}..., expected {INTEGRITY[:12]}...; not used"
            )
        packed.replace(package)
    return package


def _pack(folder: Path) -> Path:
    """Ask npm, which knows its registry, for the package as one .tgz in a folder."""
    npm = shutil.which("npm")
    if not npm:
        raise UserError(f"the page needs {PACKAGE}, and npm, which fetches it, is not installed; install Node.js")
    command = [npm, "pack", PACKAGE, "--loglevel=error", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"npm pack {PACKAGE} has not ended after 5 minutes; is its registry reachable?") from None
    packed = list(folder.glob("*.tgz"))
    if done.returncode or len(packed) != 1:
        said = " ".join(line.removeprefix("npm error").strip() for line in done.stderr.splitlines()[:2])
        raise UserError(f"npm pack {PACKAGE} failed ({said or 'no message'}); is its registry reachable?")
    return packed[0]


def _digest(file: Path) -> str:
    return base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise UserError(f"{PACKAGE} has no file {name}")
    return file.read()


# ---------------------------------------------------------------- serving it


TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
}


class _Handler(SimpleHTTPRequestHandler):
    """Static files with the types that browsers insist on, and the headers that allow WebAssembly its threads."""

    def guess_type(self, path: Any) -> str:
        return TYPES.get(Path(path).suffix) or super().guess_type(path)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing of each request."""


def server(folder: Path, port: int = PORT) -> ThreadingHTTPServer:
    """A server of a page's folder on 127.0.0.1 only, not yet serving. port 0: any that is free.

    Raises UserError where the folder holds no page or the port is taken, ModelError where the page's file is damaged or
    not ours.
    """
    model.load(_exported(folder), threads=1)
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"port {port} cannot be used ({reason}); give another with --port") from None


def _exported(folder: Path) -> Path:
    """The file that a page in a folder runs."""
    try:
        name = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["model"]
        if not (folder / "index.html").is_file():
            raise KeyError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder}: no whole page there; write one with embedkit stitch-export --web {folder}"
        ) from None
    return inside(folder, str(name))


def serve(folder: Path, port: int = PORT, announce: Callable[[str], None] = print) -> None:
    """Serve a page's folder to this machine until Ctrl-C; announce is told the address."""
    with server(folder, port) as running:
        announce(f"http://localhost:{running.server_port}/")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return
