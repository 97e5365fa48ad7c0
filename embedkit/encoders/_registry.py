"""Finds encoders by name, and the families that read them: each is a module of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from embedkit.audio import RATE
from embedkit.encoders._base import Encoder, Family, Spec
from embedkit.encoders._checkpoint import (
    CONFIG,
    PREPROCESSOR,
    RANDOM_MARKER,
    check_files,
    hash_files,
    list_weight_files,
    read_json,
    read_tensor_sizes,
)
from embedkit.encoders._hub import fetch_snapshot
from embedkit.errors import EncoderError, did_you_mean


def resolve(name: str) -> Spec:
    """An encoder by its hub id ("ntu-spml/distilhubert"), its folder, or an exported file. Imports no torch.

    Raises EncoderError, which says what to do, where it cannot be found or downloaded, has pickles only, or is of no
    known family.
    """
    folder = Path(name).expanduser()
    if is_exported(folder):
        from embedkit.encoders import exported

        return exported.resolve(folder)
    if folder.is_dir():
        id_, revision = folder.resolve().name, ""
    else:
        folder = fetch_snapshot(name)
        id_, revision = name, folder.name
    check_files(folder, name)
    config = read_json(folder / CONFIG)
    if (rate := read_json(folder / PREPROCESSOR).get("sampling_rate", RATE)) != RATE:
        raise EncoderError(f"{name}: it wants {rate} Hz; embedkit's sound is {RATE} Hz: choose another encoder")
    family = _find_family(config, name)
    try:
        layers, dim = family.geometry(config)
    except KeyError as error:
        raise EncoderError(f"{name}: {CONFIG} has no {error}; download the checkpoint again") from None
    files = list_weight_files(folder)
    return Spec(
        id=id_,
        folder=folder,
        revision=revision,
        weights_digest=hash_files(files),
        random=(folder / RANDOM_MARKER).exists(),
        family=family.__name__.rsplit(".", 1)[-1],  # type: ignore[attr-defined]
        layers=layers,
        dim=dim,
        parameters=sum(n for file in files for key, n in read_tensor_sizes(file).items() if family.is_used(key)),
    )


def is_exported(path: Path) -> bool:
    """Whether it is a file of `stitch-export`, judged by its name."""
    return path.suffix == ".onnx"


def slug(name: str) -> str:
    """`Spec.slug` of what `resolve` would find, without reading it."""
    path = Path(name).expanduser()
    if is_exported(path):
        from embedkit.encoders import exported

        name = exported.derive_encoder_id(path)
    elif path.is_dir():
        name = path.resolve().name
    return name.replace("/", "--")


def load(spec: Spec, precision: str = "fp32", device: str = "cpu", crop: bool = False) -> Encoder:
    """The encoder, ready to pool. precision: "fp32" or "bf16"; device: "cpu" or "cuda"; crop: a recipe's `Sound.crop`,
    for a Whisper encoder.

    Raises EncoderError where the weights do not fit the config.
    """
    if precision not in ("fp32", "bf16"):
        raise EncoderError(f"precision '{precision}'{did_you_mean(precision, ['fp32', 'bf16'])}")
    return _import_family(spec.family).load(spec, precision, device, crop)


def load_encoder(name: str | Path, precision: str = "fp32", device: str = "cpu", crop: bool = False) -> Encoder:
    """An encoder by hub id, folder or exported file, ready to pool: `resolve` and `load` in one.

    `.pool(wave)` of float32 [samples] (16 kHz, -1 to 1) gives float32 [layer, stat, dim], stat 0 the mean over frames
    and 1 the standard deviation. Raises EncoderError as the two do.
    """
    return load(resolve(str(name)), precision, device, crop)


def families() -> dict[str, Family]:
    """Every family, by the name of its module."""
    modules = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return {name: _import_family(name) for name in modules if not name.startswith("_")}


def _import_family(name: str) -> Family:
    return cast(Family, importlib.import_module(f"embedkit.encoders.{name}"))


def _find_family(config: Mapping[str, object], name: str) -> Family:
    model_type = str(config.get("model_type", ""))
    known = {read: family for family in families().values() for read in family.MODEL_TYPES}
    if model_type not in known:
        raise EncoderError(f"{name}: no encoder of model_type '{model_type}'{did_you_mean(model_type, known)}")
    return known[model_type]
