"""Writes the page: the exported file, the page's own files, and onnxruntime-web from npm at a pinned version."""

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
from typing import TypedDict

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
# Of the file's metadata, shown on the page.
SHOWN_METADATA = ("study", "arm", "head", "layer", "encoder", "profile", "weights", "version")


class WrittenPage(TypedDict):
    """Where a page lies: `web` of what `stitch-export --web` prints."""

    folder: str
    files: list[str]  # names in the folder, sorted
    bytes: int  # of all of them


class PageDescription(TypedDict):
    """model.json beside a page: what the page must know of the exported file, and the numbers that the runtime uses."""

    model: str  # the file's name in the folder
    bytes: int
    sha256: str  # of the whole file, so that the page recognises a damaged one
    labels: list[str]
    rate: int  # Hz
    window: int  # samples of one window, and the hop
    last: int  # samples that the last window has at least, unless it is the only one
    shortest: int  # samples of the shortest clip that is accepted
    silent: float  # the largest |sample| of a clip that counts as silent
    about: dict[str, str]  # of the file's metadata, what is shown
    runtime: str  # onnxruntime-web and its version, as npm names them


def write_page(exported: Path, folder: Path, package: Path | None = None) -> WrittenPage:
    """Write the page for an exported file into a folder (14 MB and the file itself); the page's HTML comes last.

    package: what `fetch_runtime` gave. Raises ModelError for a file that is damaged or not ours, UserError where the
    folder cannot be written or onnxruntime-web cannot be had.
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


def _describe_model(name: str, exported: bytes, meta: dict[str, str]) -> PageDescription:
    """What model.json says."""
    return {
        "model": name,
        "bytes": len(exported),
        "sha256": hashlib.sha256(exported).hexdigest(),
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
    """The path of the npm package of onnxruntime-web, at the version and with the digest that are pinned here.

    It is kept in the user's cache folder, so that npm is asked once (33 MB). Raises UserError where it cannot be had.
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
