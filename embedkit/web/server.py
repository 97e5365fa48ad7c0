"""Serves a page to this machine only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from embedkit.errors import UserError
from embedkit.runtime import model
from embedkit.web.pages import DESCRIPTION
from embedkit.workspace import resolve_inside

PORT = 8000

MEDIA_TYPES = {
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

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        """The media type of a file, by the ending of its name."""
        return MEDIA_TYPES.get(Path(path).suffix) or super().guess_type(path)

    def end_headers(self) -> None:
        """Add the headers of every response."""
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing about a request."""


def make_server(folder: Path, port: int = PORT) -> ThreadingHTTPServer:
    """A server of a page's folder on 127.0.0.1 only, not yet serving. port 0: any that is free.

    Raises UserError where the folder holds no page or the port is taken, ModelError where the page's model is damaged
    or not ours.
    """
    model.load(_find_model(folder), threads=1)
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"port {port} cannot be used ({reason}); give another with --port") from None


def _find_model(folder: Path) -> Path:
    """The exported file that the page in a folder runs. Raises UserError where the page is missing or incomplete."""
    try:
        name = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["model"]
        if not (folder / "index.html").is_file():
            raise KeyError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder}: no whole page there; write one with embedkit stitch-export --web {folder}"
        ) from None
    return resolve_inside(folder, str(name))


def serve(folder: Path, port: int = PORT, announce: Callable[[str], None] = print) -> None:
    """Serve a page's folder to this machine until Ctrl-C; announce gets the address once it is served."""
    with make_server(folder, port) as running:
        announce(f"http://localhost:{running.server_port}/")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            return
