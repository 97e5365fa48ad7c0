"""A checkpoint's folder: its files, their digest, and transformers' own model from safetensors."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedkit.encoders._base import Spec
from embedkit.errors import EncoderError

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # where the weights are in several files
RANDOM_MARKER = "WEIGHTS_ARE_RANDOM"  # a file of this name says that the weights are random

log = logging.getLogger(__name__)


def list_weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted by name.

    Raises EncoderError where the index of a checkpoint in several files lists none, or one that is not in the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    weight_map = read_json(folder / INDEX).get("weight_map", {})
    if not isinstance(weight_map, dict):
        raise EncoderError(f"{folder / INDEX}: its weight_map is no JSON object; download the checkpoint again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise EncoderError(f"{folder / INDEX}: no weights '{name}' beside it; download the checkpoint again")
    return [folder / name for name in names]


def check_files(folder: Path, name: str) -> None:
    """Raise EncoderError, which says what to do, unless the folder has config.json, preprocessor_config.json and
    safetensors."""
    has_weights = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    if not has_weights and any(folder.glob("*.bin")):
        raise EncoderError(explain_pickles(name))
    for file, there in (
        (CONFIG, (folder / CONFIG).is_file()),
        (WEIGHTS, has_weights),
        (PREPROCESSOR, (folder / PREPROCESSOR).is_file()),
    ):
        if not there:
            raise EncoderError(
                f"{name}: {file} is missing; an encoder's folder holds {CONFIG}, {PREPROCESSOR} and {WEIGHTS}"
            )


def explain_pickles(name: str) -> str:
    """The error for a checkpoint that has pickles only, and what to do about it."""
    return (
        f"{name}: its weights are pickles (pytorch_model.bin), which can run code and are never read; convert them"
        f" where you trust them: python -c \"from transformers import AutoModel; AutoModel.from_pretrained('{name}')"
        f".save_pretrained('DIR')\", copy {PREPROCESSOR} into DIR, and give --encoder DIR"
    )


def read_json(path: Path) -> dict[str, object]:
    """A JSON object of a checkpoint. Raises EncoderError where the file cannot be read or holds anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path}: cannot be read as JSON ({error}); download the checkpoint again") from None
    if not isinstance(data, dict):
        raise EncoderError(f"{path}: expected a JSON object; download the checkpoint again")
    return data


def hash_files(files: list[Path]) -> str:
    """SHA-256 over the bytes of all files, one file after another; of a single file it is the hub's own digest."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_tensor_sizes(file: Path) -> dict[str, int]:
    """The number of elements of each tensor, by its name, from a safetensors file's header. Raises EncoderError."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
        return {key: math.prod(value["shape"]) for key, value in header.items() if key != "__metadata__"}
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        raise EncoderError(f"{file}: not a safetensors file, or cut short; download the checkpoint again") from None


def shorten_error(error: BaseException) -> str:
    """An exception as one line of at most some 120 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def load_pretrained(spec: Spec) -> tuple[Any, tuple[str, ...]]:
    """transformers' own model in fp32 and evaluation mode, and the names of the checkpoint's weights that it lacks.

    Raises EncoderError where a weight is missing or has another shape (transformers would fill it at random).
    """
    import torch
    from transformers import AutoModel

    try:
        with _silence_transformers():
            model, info = AutoModel.from_pretrained(
                spec.folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # a damaged checkpoint raises many kinds of errors, which all mean the same to the user
        raise EncoderError(
            f"{spec.id}: the checkpoint does not load ({shorten_error(error)}); download it again"
        ) from None
    # Only masked pretraining uses masked_spec_embed; many checkpoints leave it out.
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("masked_spec_embed"))
    if missing:
        raise EncoderError(
            f"{spec.id}: {len(missing)} weights are missing from the checkpoint ({missing[0]}, ...);"
            " it is not one of this architecture: choose another encoder"
        )
    unexpected = tuple(sorted(info["unexpected_keys"]))
    if unexpected:
        log.info("%s: %d weights not used: %s", spec.id, len(unexpected), ", ".join(unexpected))
    return model.eval().requires_grad_(False), unexpected


@contextmanager
def _silence_transformers() -> Iterator[None]:
    """Without transformers' progress bar and its table of unused weights on stderr; we report what matters."""
    from transformers.utils import logging

    transformers_logging: Any = logging
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
