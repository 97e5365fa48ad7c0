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
from pathlib import Path
from typing import Any

from embedkit import audio, files
from embedkit.classes import CLASSES
from embedkit.errors import UserError
from embedkit.runtime import SHORTEST, model, speech

PACKAGE = "onnxruntime-web@1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")  # of its dist/
PAGE = Path(__file__).parent / "page"
ASSETS = ("style.css", "app.js", "worker.js", "recorder.js", "index.html")  # the page itself last
DESCRIPTION = "model.json"
SHOWN_METADATA = (
    "study",
    "arm",
    "head",
    "layer",
    "encoder",
    "profile",
    "weights",
    "version",
)  # of the metadata, on the page


def write_page(exported: Path, folder: Path, package: Path | None = None) -> dict[str, Any]:
    """Lay the page for an exported file down in a folder (14 MB and the file itself); the page's HTML comes last.

    package: what `fetch` gave. Returns {folder, files, bytes}. Raises ModelError for a file that is damaged or not
    ours, UserError where the folder cannot be written or onnxruntime-web cannot be had.
    """
    _, meta = model.load(exported, threads=1)
    with tarfile.open(package or fetch_runtime()) as archive:
        content = {name: _read_member(archive, f"package/dist/{name}") for name in RUNTIME}
    content[exported.name] = exported.read_bytes()
    content[DESCRIPTION] = json.dumps(_describe_model(exported.name, content[exported.name], meta), indent=1).encode()
    content |= {name: (PAGE / name).read_bytes() for name in ASSETS}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            files.write_bytes(folder / name, data)
    except OSError as error:
        raise UserError(f"{folder}: the page cannot be written there ({error.strerror}); give another folder") from None
    return {"folder": str(folder), "files": sorted(content), "bytes": sum(map(len, content.values()))}


def _describe_model(name: str, exported: bytes, meta: dict[str, str]) -> dict[str, Any]:
    """What the page must know of the file, and the numbers by which the runtime cuts and refuses."""
    return {
        "model": name,
        "bytes": len(exported),
        "sha256": hashlib.sha256(exported).hexdigest(),  # by which the page knows a damaged one
        "labels": list(CLASSES),
        "rate": audio.RATE,
        "window": speech.WINDOW,
        "last": speech.LAST,
        "shortest": SHORTEST,
        "silent": audio.SILENT,
        "about": {key: meta[f"embedkit.{key}"] for key in SHOWN_METADATA if meta.get(f"embedkit.{key}")},
        "runtime": PACKAGE,
    }


def fetch_runtime() -> Path:
    """The npm package of onnxruntime-web, at the version and with the digest that are pinned here.

    Kept in the user's cache folder, so that npm is asked once (33 MB). Raises UserError where it cannot be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedkit"
    package = cache / f"{PACKAGE.replace('@', '-')}.tgz"
    if package.is_file() and _hash_package(package) == INTEGRITY:
        return package
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        packed = _download_package(Path(folder))
        if (found := _hash_package(packed)) != INTEGRITY:
            raise UserError(
                f"{PACKAGE} from npm has the SHA-512 {found[:12]}..., expected {INTEGRITY[:12]}...; not used"
            )
        packed.replace(package)
    return package


def _download_package(folder: Path) -> Path:
    """Ask npm, which knows its registry, for the package as one .tgz in a folder."""
    npm = shutil.which("npm")
    if not npm:
        raise UserError(f"the page needs {PACKAGE}, and npm, which fetches it, is not installed; install Node.js")
    command = [npm, "pack", PACKAGE, "--loglevel=error", "--fetch-retries=1"]
    try:
        completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"npm pack {PACKAGE} has not ended after 5 minutes; is its registry reachable?") from None
    packed = list(folder.glob("*.tgz"))
    if completed.returncode or len(packed) != 1:
        message = " ".join(line.removeprefix("npm error").strip() for line in completed.stderr.splitlines()[:2])
        raise UserError(f"npm pack {PACKAGE} failed ({message or 'no message'}); is its registry reachable?")
    return packed[0]


def _hash_package(file: Path) -> str:
    return base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise UserError(f"{PACKAGE} has no file {name}")
    return file.read()
