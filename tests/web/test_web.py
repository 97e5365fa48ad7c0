"""The page: what is written, what is served, and that a browser says of a real recording what `predict` says."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from embedkit import cli, refit, web
from embedkit.errors import ModelError, UserError
from embedkit.runtime import Predictor
from embedkit.runtime.model import CLASSES
from embedkit.web import pages
from embedkit.workspace import init_workspace

WORDS = "[...document.querySelectorAll('#windows tr')].map(r => [...r.querySelectorAll('data')].map(d => +d.value))"


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A package with the three files and nothing of theirs in them."""
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in web.RUNTIME:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return path


def test_the_page_is_written_whole(loudness: Path, stand_in: Path, tmp_path: Path) -> None:
    """The very file, the runtime's three files and the page; every name that the page loads is there; no addresses."""
    folder = tmp_path / "a" / "site"
    said = web.write_page(loudness, folder, stand_in)
    assert said["files"] == sorted(p.name for p in folder.iterdir())
    assert said["bytes"] == sum(p.stat().st_size for p in folder.iterdir())
    assert (folder / loudness.name).read_bytes() == loudness.read_bytes()
    about = json.loads((folder / "model.json").read_text())
    assert (about["model"], about["labels"], about["rate"]) == (loudness.name, list(CLASSES), 16_000)
    assert (about["window"], about["last"], about["shortest"]) == (128_000, 16_000, 400)
    assert about["about"]["weights"] == "random"
    assert about["sha256"] == hashlib.sha256(loudness.read_bytes()).hexdigest()
    for name in web.ASSETS:
        text = (folder / name).read_text(encoding="utf-8")
        assert "https://" not in text and text.replace('"http://www.w3.org/2000/svg"', "").count("http://") == 0
    web.write_page(loudness, folder, stand_in)  # again, over itself


def test_what_cannot_be_written(loudness: Path, stand_in: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(loudness.read_bytes().replace(b"Softmax", b"Sofxmax"))
    with pytest.raises(ModelError, match="damaged"):
        web.write_page(broken, tmp_path / "site", stand_in)
    with pytest.raises(UserError, match="another folder"):
        web.write_page(loudness, loudness / "site", stand_in)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("script", "why"),
    [(None, "install Node"), ("exit 1", "reachable"), ("echo 1 > a.tgz", "not used")],
)
def test_onnxruntime_web_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, why: str
) -> None:
    """Without npm, with one that fails, with one that gives another package: one line each, and nothing is kept."""
    (tmp_path / "bin").mkdir()
    if script:
        npm = tmp_path / "bin" / "npm"
        npm.write_text(f"#!/bin/sh\n{script}\n")
        npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=why) as caught:
        web.fetch_runtime()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.tgz"))


def test_a_cached_package_is_used_as_it_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the right digest is taken without npm; one of another digest is not."""
    kept = tmp_path / "embedkit" / "onnxruntime-web-1.30.0.tgz"
    kept.parent.mkdir()
    kept.write_bytes(b"right")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="install Node"):
        web.fetch_runtime()
    monkeypatch.setattr(pages, "INTEGRITY", base64.b64encode(hashlib.sha512(b"right").digest()).decode())
    assert web.fetch_runtime() == kept


def test_the_server(loudness: Path, stand_in: Path, tmp_path: Path, served: Callable[[Path], str]) -> None:
    """Loopback only, with the types that browsers insist on; nothing outside the folder."""
    with pytest.raises(UserError, match="stitch-export --web"):
        web.make_server(tmp_path)
    web.write_page(loudness, tmp_path / "site", stand_in)
    (tmp_path / "secret").write_text("no")
    address = served(tmp_path / "site")
    kinds = {"": "text/html", "app.js": "text/javascript", "ort-wasm-simd-threaded.mjs": "text/javascript",
             "ort-wasm-simd-threaded.wasm": "application/wasm", loudness.name: "application/octet-stream"}  # fmt: skip
    for name, kind in kinds.items():
        with urllib.request.urlopen(address + name) as answer:
            assert answer.headers.get_content_type() == kind
    with urllib.request.urlopen(address + loudness.name) as answer:
        assert answer.read() == loudness.read_bytes()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(address + "%2e%2e/secret")
    port = int(address.split(":")[2].strip("/"))
    with pytest.raises(UserError, match="--port"):
        web.make_server(tmp_path / "site", port)
    with pytest.raises(UserError, match="--port"):
        web.make_server(tmp_path / "site", 99_999)
    with web.make_server(tmp_path / "site", 0) as another:
        assert another.server_address[0] == "127.0.0.1"


def spoil(folder: Path, name: str, how: str) -> None:
    """What may happen to a page's files on their way: cut short, a byte changed, labels missing, somebody else's."""
    file = folder / name
    data = file.read_bytes()
    if how == "cut":
        file.write_bytes(data[:-40])
    elif how == "byte":
        file.write_bytes(data.replace(b"Softmax", b"Softmux"))
    elif how == "labels":
        about = json.loads(data)
        file.write_text(json.dumps({**about, "labels": about["labels"][::-1]}))
    else:
        file.write_text("<html>not here</html>")


@pytest.mark.parametrize(("name", "how", "why"), [
    ("loudness.onnx", "cut", "cut short"), ("loudness.onnx", "byte", "damaged"),
    ("loudness.onnx", "other", "not a file of embedkit"), ("model.json", "other", "no whole page"),
    ("model.json", "outside", "leads out"),
])  # fmt: skip
def test_a_spoiled_page_is_not_served(
    loudness: Path, stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, how: str, why: str
) -> None:
    """`serve` looks at the file that the page runs before it begins: one clear line."""
    web.write_page(loudness, tmp_path / "site", stand_in)
    if how == "outside":
        (tmp_path / "site" / name).write_text(json.dumps({"model": "../../etc/hostname"}))
    else:
        spoil(tmp_path / "site", name, how)
    assert cli.run(["serve", str(tmp_path / "site"), "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


def test_the_verbs(
    loudness: Path, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """stitch-export --web lays the page of the file that it made; serve refuses a folder without one."""
    made = {"model": str(loudness), "bytes": 1_000, "certificate": {}}
    monkeypatch.setattr(refit, "stitch_export", lambda *_, **__: dict(made))
    monkeypatch.setattr(web, "fetch_runtime", lambda: stand_in)
    home = ["--workspace", str(init_workspace(tmp_path / "home").root)]
    assert cli.run([*home, "stitch-export", "--web", str(tmp_path / "site"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.pop("web")["folder"] == str(tmp_path / "site")
    assert said == made and (tmp_path / "site" / "index.html").is_file()
    assert cli.run([*home, "stitch-export", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == made
    assert cli.run(["serve", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---------------------------------------------------------------- in a browser


def heard(browser: Any, file: Path) -> list[list[float]]:
    """Probabilities (4) and milliseconds of each window that the page shows for a file."""
    browser.run("document.body.dataset.state = 'asked'")
    browser.choose("#file", file)
    browser.wait("document.body.dataset.state === 'ready'")
    rows: list[list[float]] = browser.run(WORDS)
    return rows


@pytest.mark.slow
def test_a_browser_says_what_predict_says(
    loudness: Path, package: Path, shared: Path, tmp_path: Path, browse: Any, served: Callable[[Path], str]
) -> None:
    """Real clips of 16 kHz, one of some 4 s and six joined to three windows: predict --no-vad to 1e-3.

    And the page asks for nothing but its own folder, complains of nothing, and says what it cannot use.
    """
    clip = shared / "data/ravdess/Actor_03/03-01-05-02-01-01-03.flac"
    six = sorted((shared / "data/ravdess/Actor_04").glob("*.flac"))[:6]
    long = tmp_path / "long.wav"
    soundfile.write(long, np.concatenate([soundfile.read(f)[0] for f in six]), 16_000)
    web.write_page(loudness, tmp_path / "site", package)
    address = served(tmp_path / "site")
    predictor = Predictor(loudness, threads=1)
    browser = browse()
    browser.open(address)
    for file, windows in ((clip, 1), (long, 3)):
        rows = heard(browser, file)
        said = predictor.predict(file, vad=False)
        assert len(rows) == len(said["windows"]) == windows
        expected = [list(w["probabilities"].values()) for w in said["windows"]]
        assert np.abs(np.array(rows)[:, :4] - expected).max() < 1e-3
        assert all(row[4] > 0 for row in rows)
        assert said["label"] in browser.run("document.querySelector('#verdict').innerText")
        assert browser.run("document.querySelectorAll('#chart svg').length") == 4
        assert browser.run("document.querySelectorAll('#chart rect').length") == 4 * windows

    text = tmp_path / "text.wav"
    text.write_text("no sound")
    assert heard(browser, text) == []
    assert "no sound" in browser.run("document.querySelector('#error').innerText")
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(32_000), 16_000)
    assert heard(browser, silence) == []
    assert "silent" in browser.run("document.querySelector('#status').innerText")

    assert browser.complaints == []
    assert browser.requests
    assert all(request.startswith((address, "blob:", "data:")) for request in browser.requests)


@pytest.mark.slow
def test_a_spoiled_file_is_refused_by_the_page(
    loudness: Path, package: Path, tmp_path: Path, browse: Any, served: Callable[[Path], str]
) -> None:
    """The page itself, from any server: what is not the file that it was written for never runs, in one clear line."""
    site = tmp_path / "site"
    web.write_page(loudness, site, package)
    whole = {name: (site / name).read_bytes() for name in (loudness.name, "model.json")}
    address = served(site)
    browser = browse()
    browser.ask("Network.setCacheDisabled", cacheDisabled=True)  # files change here within a second, which HTTP misses
    for name, how, why in (
        (loudness.name, "cut", "bytes of"),
        (loudness.name, "byte", "SHA-256"),
        (loudness.name, "other", "damaged"),
        ("model.json", "labels", "model.json is damaged"),
        ("model.json", "other", "model.json is damaged"),
    ):
        spoil(site, name, how)
        browser.open(address)
        assert browser.run("document.body.dataset.state") == "failed"
        shown = browser.run("document.querySelector('#error').innerText")
        assert why in shown and "stitch-export --web" in shown and "\n" not in shown
        assert browser.run("document.querySelector('#record').disabled && document.querySelector('#file').disabled")
        (site / name).write_bytes(whole[name])
    (site / loudness.name).unlink()
    browser.open(address)
    assert "served whole" in browser.run("document.querySelector('#error').innerText")


@pytest.mark.slow
def test_a_dropped_recording_without_a_network(
    loudness: Path, package: Path, tmp_path: Path, browse: Any, served: Callable[[Path], str]
) -> None:
    """A file dropped anywhere on the page, with the network gone after loading: judged as `predict --no-vad` does."""
    loud = tmp_path / "loud.wav"
    soundfile.write(loud, 0.3 * np.sign(np.sin(2 * np.pi * 200 * np.arange(16_000 * 3) / 16_000)), 16_000)
    web.write_page(loudness, tmp_path / "site", package)
    browser = browse()
    browser.open(served(tmp_path / "site"))
    browser.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    data = {"items": [], "files": [str(loud)], "dragOperationsMask": 1}
    browser.ask("Input.dispatchDragEvent", type="dragEnter", x=300, y=400, data=data)
    browser.ask("Input.dispatchDragEvent", type="dragOver", x=300, y=400, data=data)
    assert browser.run("document.body.classList.contains('over')")
    browser.ask("Input.dispatchDragEvent", type="drop", x=300, y=400, data=data)
    browser.wait("document.querySelector('#status').innerText === 'Done.'")
    rows = np.array(browser.run(WORDS))
    expected = Predictor(loudness, threads=1).predict(loud, vad=False)["probabilities"]
    assert np.abs(rows[0, :4] - list(expected.values())).max() < 1e-3
    assert not browser.run("document.body.classList.contains('over')")


@pytest.mark.slow
def test_the_microphone_by_keyboard(
    loudness: Path, package: Path, tmp_path: Path, browse: Any, served: Callable[[Path], str]
) -> None:
    """Tab and Enter alone: record from a (fake) microphone that plays a loud tone, stop, and read one window."""
    tone = tmp_path / "tone.wav"
    soundfile.write(tone, 0.5 * np.sign(np.sin(2 * np.pi * 200 * np.arange(48_000 * 4) / 48_000)), 48_000)
    web.write_page(loudness, tmp_path / "site", package)
    browser = browse(f"--use-file-for-fake-audio-capture={tone}")
    browser.open(served(tmp_path / "site"))
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.id") == "record"
    browser.press("Enter", 13, "\r")
    browser.wait("document.body.dataset.state === 'recording'")
    browser.wait("/0:0[2-7]/.test(document.querySelector('#status').innerText)")
    browser.press("Enter", 13, "\r")
    browser.wait("document.body.dataset.state === 'ready'")
    rows = browser.run(WORDS)
    assert len(rows) == 1
    assert rows[0][0] > 0.9, "a tone at half of full scale is loud, and loud is angry to this file"
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.id") == "file"
    assert browser.complaints == []
