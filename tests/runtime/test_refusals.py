"""The verbs that take an exported file refuse one that is not whole or not ours: one line, exit code 2, no output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from embedkit import cli
from embedkit.runtime.model import sign
from embedkit.workspace import init_workspace

Spoil = Callable[[bytes], bytes]


def without(key: str) -> Spoil:
    """Somebody takes an entry of the metadata out and signs the rest."""

    def spoil(whole: bytes) -> bytes:
        model = onnx.load_from_string(whole)
        kept = {p.key: p.value for p in model.metadata_props if p.key != key}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, kept)
        data = model.SerializeToString()
        return data if key == "embedkit.sha256" else sign(data)

    return spoil


SPOILED: dict[str, tuple[Spoil, str]] = {
    "cut short": (lambda whole: whole[: len(whole) // 2], "cut short"),
    "a byte less": (lambda whole: whole[:-1], "cut short"),
    "a changed byte": (lambda whole: whole.replace(b"Softmax", b"Sofumax"), "damaged"),
    "no labels": (without("embedkit.labels"), "its labels are missing"),
    "not ours": (without("embedkit.sha256"), "not a file of embedkit stitch-export"),
    "no model": (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "not a file of embedkit stitch-export"),
    "empty": (lambda _: b"", "not a file of embedkit stitch-export"),
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("verb", ["predict", "evaluate", "evaluate --long", "predict --json"])
def test_a_spoiled_file_is_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, how: str
) -> None:
    """Before anything is heard, whatever the verb; a whole file passes."""
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.3), 16_000)
    (tmp_path / "list.csv").write_text("file,speaker,label\na.wav,1,anger\n")
    spoil, why = SPOILED[how]
    path = tmp_path / "model.onnx"
    path.write_bytes(spoil(exported.read_bytes()))
    name, *flags = verb.split()
    sound = [str(tmp_path / "a.wav")] if name == "predict" else ["--corpus", "x", "--root", str(tmp_path / "list.csv")]
    home = ["--workspace", str(init_workspace(tmp_path / "home").root)]
    assert cli.run([*home, name, str(path), *sound, *flags]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert why in said.err and str(path) in said.err and said.err.count("\n") == 1
    path.write_bytes(exported.read_bytes())
    assert cli.run([*home, name, str(path), *sound, *flags]) == 0
