"""An exported file: is it whole, is it ours, and what does it say of itself."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.audio import RATE
from embedkit.classes import CLASSES
from embedkit.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime

FORMAT = "1"  # of the file's interface: inputs, outputs, metadata
INPUTS = {"signal", "lengths"}
OUTPUTS = {"probabilities", "logits", "embedding"}
BLANK = "0" * 64  # stands in the digest's place while the digest is taken
EXPORT_AGAIN = "copy it anew or run embedkit stitch-export again"

# The metadata entry as protobuf writes it: field 1 (key, 15 bytes), field 2 (value, 64 bytes).
_ENTRY = re.compile(rb"\x0a\x0fembedkit\.sha256\x12\x40([0-9a-f]{64})", re.DOTALL)


def compute_file_digest(model: bytes) -> str:
    """SHA-256 (64 hexadecimal characters) of an ONNX file with the value of its metadata `embedkit.sha256` as zeros.

    So a file carries its own digest, and it is verified without the onnx package. Raises ModelError where there is no
    such entry, or more than one.
    """
    place = _find_digest(model)
    sha = hashlib.sha256(model[: place.start])
    sha.update(BLANK.encode())
    sha.update(model[place.stop :])
    return sha.hexdigest()


def sign(model: bytes) -> bytes:
    """The file with its digest filled in; its metadata must already hold `embedkit.sha256` (64 zeros will do)."""
    place = _find_digest(model)
    return model[: place.start] + compute_file_digest(model).encode() + model[place.stop :]


def read_verified(path: Path) -> bytes:
    """The file's bytes. Raises ModelError, in one line, where it is missing, damaged or not by embedkit."""
    try:
        model = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}; give an .onnx file of embedkit stitch-export") from None
    try:
        place = _find_digest(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    if compute_file_digest(model) != model[place].decode():
        raise ModelError(f"{path}: damaged, its SHA-256 is not the one that it carries; {EXPORT_AGAIN}")
    return model


def load(path: Path, threads: int | None = None) -> tuple[onnxruntime.InferenceSession, dict[str, str]]:
    """An onnxruntime session on a verified file, and its metadata. threads: None takes every core.

    Raises ModelError, in one line, where the file is missing, damaged or not by this version of embedkit.
    """
    import onnxruntime

    model = read_verified(path)
    try:
        session = onnxruntime.InferenceSession(model, make_session_options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class for its errors
        raise ModelError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({first_line(error)})"
        ) from None
    meta = dict(session.get_modelmeta().custom_metadata_map)
    _check_interface(path, session, meta)
    return session, meta


def make_session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """The settings under which a file gives the results that it was certified with. threads: None takes every core.

    By default onnxruntime rounds the activations in front of 8-bit weights to 8 bits too (its accuracy level 4). That
    changes logits by 0.01 and is not what browsers do; level 1 computes in float and takes some 7 % longer.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or 0
    settings.log_severity_level = 3  # errors only
    settings.enable_cpu_mem_arena = (
        False  # windows differ in length inside the graph, and an arena grows with each new one
    )
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return settings


def first_line(error: Exception) -> str:
    """The first line of a library's complaint, for an error that takes one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_interface(path: Path, session: onnxruntime.InferenceSession, meta: dict[str, str]) -> None:
    """ModelError unless labels, rate, inputs and outputs are those that the runtime relies on."""
    expected = {"embedkit.format": FORMAT, "embedkit.rate": str(RATE)}
    for key, value in expected.items():
        if meta.get(key) != value:
            raise ModelError(f"{path}: {key} is {meta.get(key)!r}, expected {value!r}; export it with this embedkit")
    labels = meta.get("embedkit.labels", "")
    if _parse_json(labels) != list(CLASSES):
        raise ModelError(f"{path}: its labels are {labels or 'missing'}, expected {json.dumps(CLASSES)} in this order")
    for kind, wanted, found in (
        ("input", INPUTS, {i.name for i in session.get_inputs()}),
        ("output", OUTPUTS, {o.name for o in session.get_outputs()}),
    ):
        if missing := wanted - found:
            raise ModelError(
                f"{path}: it has no {kind} {', '.join(sorted(missing))}; found: {', '.join(sorted(found))}"
            )


def _find_digest(model: bytes) -> slice:
    entries = list(_ENTRY.finditer(model))
    if len(entries) != 1:
        raise ModelError(
            f"not a file of embedkit stitch-export, or cut short ({len(entries)} digests in it); {EXPORT_AGAIN}"
        )
    return slice(*entries[0].span(1))


def _parse_json(text: str) -> object:
    """The value of a JSON text, None of what is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None
