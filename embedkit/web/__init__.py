"""A static page that runs an exported file in the browser: the very file, through onnxruntime-web.

`write_page` makes a folder that any static server can serve and that fetches nothing from elsewhere; `serve` is such a
server, for this machine alone. The page cuts a recording as `predict --no-vad` does: windows of 8 s, hop 8 s.
"""

from __future__ import annotations

from embedkit.web.pages import ASSETS, RUNTIME, WrittenPage, fetch_runtime, write_page
from embedkit.web.server import make_server, serve

__all__ = ["ASSETS", "RUNTIME", "WrittenPage", "fetch_runtime", "make_server", "serve", "write_page"]
