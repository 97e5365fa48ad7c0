"""Tables and pictures of predictions say what the predictions say, and ask for what is missing beforehand."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from embedkit.errors import UserError
from embedkit.runtime import output
from embedkit.runtime.model import CLASSES


def said(file: str, shares: list[list[float]]) -> dict[str, object]:
    """A prediction with a window of 8 s each 10 s."""
    windows = [
        {"start": 10.0 * i, "end": 10.0 * i + 8, "probabilities": dict(zip(CLASSES, p, strict=True))}
        for i, p in enumerate(shares)
    ]
    mean = np.mean(shares, axis=0)
    return {
        "file": file,
        "label": CLASSES[int(mean.argmax())],
        "probabilities": dict(zip(CLASSES, mean.tolist(), strict=True)),
        "windows": windows,
    }


FILES = [
    said("notes/one, two.wav", [[0.1, 0.7, 0.15, 0.05], [0.6, 0.2, 0.1, 0.1], [0.0, 0.0, 0.25, 0.75]]),
    {"file": "quiet.wav", "label": None, "probabilities": None, "windows": []},
    {"file": "bad.wav", "error": "no such file"},
]


def test_the_table_is_one_row_a_window(tmp_path: Path) -> None:
    path = tmp_path / "said.csv"
    output.write_csv(FILES, path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [r["file"] for r in rows] == ["notes/one, two.wav"] * 3 + ["quiet.wav", "bad.wav"]
    assert [r["label"] for r in rows] == ["happiness", "anger", "sadness", "", ""]
    assert [r["error"] for r in rows] == ["", "", "", "", "no such file"]
    for row, window in zip(rows, FILES[0]["windows"], strict=False):
        assert [float(row[k]) for k in ("start", "end")] == [window["start"], window["end"]]
        assert {name: float(row[name]) for name in CLASSES} == window["probabilities"]
    assert [p.name for p in tmp_path.iterdir()] == ["said.csv"]


def test_the_picture_is_as_high_as_the_probabilities() -> None:
    """Each class's outline at the middle of each window against its probability; the pauses are 0."""
    page = output.build_figure(FILES)
    rows = [ax for part in page.subfigs for ax in part.axes]
    assert [ax.get_ylabel() for ax in rows] == list(CLASSES)
    for ax in rows:
        name = ax.get_ylabel()
        everything, likeliest = (c.get_paths()[0] for c in ax.collections)
        for window in FILES[0]["windows"]:
            p, best = window["probabilities"], max(window["probabilities"], key=window["probabilities"].get)
            middle = window["start"] + 4
            assert everything.contains_point((middle, p[name] - 0.01)) == (p[name] > 0)
            assert not everything.contains_point((middle, p[name] + 0.01))
            assert likeliest.contains_point((middle, p[name] - 0.01)) == (name == best)
            assert not everything.contains_point((window["end"] + 1, 0.01))
    titles = [part.get_suptitle() for part in page.subfigs]
    assert titles == ["one, two.wav: happiness", "quiet.wav: no speech", "bad.wav: no such file"]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    output.draw_picture(FILES, path)
    assert path.read_bytes()[:4] == {"png": b"\x89PNG", "svg": b"<?xm"}[ending]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_written_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output.check_writable(tmp_path / "a.csv", tmp_path / "a.png", 12)
    with pytest.raises(UserError, match="no such folder"):
        output.check_writable(tmp_path / "none" / "a.csv", None, 1)
    with pytest.raises(UserError, match="at most 12"):
        output.check_writable(None, tmp_path / "a.png", 13)
    with pytest.raises(UserError, match=r"\.png, \.svg"):
        output.check_writable(None, tmp_path / "a.txt", 1)
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'embedkit\[plot\]'"):
        output.check_writable(None, tmp_path / "a.png", 1)
