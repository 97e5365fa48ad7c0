"""Encoders: each module of this folder reads one family; being in the folder is the registration.

What is known of an encoder before torch is imported is its `Spec` (`resolve`); `load` makes it ready to pool clips.
Weights come from safetensors only, and a checkpoint's own code is never run.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import math
import pkgutil
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from embedkit.errors import ClipError, EncoderError, did_you_mean

if TYPE_CHECKING:
    import torch

RATE = 16_000  # Hz; every encoder here hears this

# Hub ids and the revision of each that has safetensors. DistilHuBERT and Whisper have them on main; of the others main
# holds pickles, and the hub's own conversion stands in a pull request.
PINNED = {
    "ntu-spml/distilhubert": "main",
    "facebook/hubert-base-ls960": "refs/pr/2",
    "microsoft/wavlm-base-plus": "refs/pr/1",
    "openai/whisper-tiny.en": "main",
}

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
RANDOM_MARKER = "WEIGHTS_ARE_RANDOM"  # a file of this name says that nothing was learned

PROBE_SECONDS = 2.0  # how long the hub may take to answer before we say that it cannot be reached

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spec:
    """What is known of an encoder before torch is imported; part of a cache's identity."""

    id: str  # the hub id, the folder's name, or "folder/file" of an exported file
    folder: Path  # where config.json and the weights lie on this machine; of an exported one the file
    revision: str  # the snapshot's commit, "" for a folder
    weights_digest: str  # SHA-256 over the safetensors files, or over an exported file's encoder
    random: bool  # weights: random (the demo's stand-in)
    family: str  # the module of this folder that reads it: "hubert", "whisper" or "exported"
    layers: int  # hidden states, the input to the first layer included
    dim: int
    parameters: int

    @property
    def slug(self) -> str:
        """Its name as a folder under cache/<recipe>/, e.g. "ntu-spml--distilhubert"."""
        return self.id.replace("/", "--")


class Encoder(Protocol):
    """A loaded encoder. Deterministic: the same clip gives the same bits, whatever came before."""

    unexpected: tuple[str, ...]  # weights of the checkpoint that the encoder has no use for (pretraining's)

    def pool(self, wave: npt.NDArray[np.float32], *, pad_to: int = 0) -> npt.NDArray[np.float32]:
        """Mean and standard deviation (ddof 0) over the clip's own frames of every hidden state.

        wave: float32 [samples], 16 kHz, prepared. pad_to: zeros are appended up to so many samples, and then all
        frames are pooled (recipe `paper` only). Returns [layer, 2, dim] float32. Raises ClipError where the clip is
        shorter than one frame or longer than the encoder's window.
        """
        ...

    def pool_many(self, waves: Sequence[npt.NDArray[np.float32]], *, pad_to: int = 0) -> list[npt.NDArray[np.float32]]:
        """`pool` of several clips as one batch, for a GPU: each within 1e-5 of `pool` in fp32, whatever is beside it.

        Clips of similar length waste least: all are padded to the longest, and masked. On a CPU it brings nothing.
        """
        ...


class Family(Protocol):
    """What a module of this folder offers. It imports torch inside its functions, so that a listing stays light."""

    MODEL_TYPES: tuple[str, ...]  # the `model_type`s of config.json that it reads

    def geometry(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """(hidden states, dim) by config.json."""
        ...

    def is_used(self, key: str) -> bool:
        """Whether a weight of the checkpoint belongs to the encoder, for counting its parameters."""
        ...

    def load(self, spec: Spec, precision: str, device: str, crop: bool) -> Encoder: ...


# ---------------------------------------------------------------- what it is


def resolve(name: str) -> Spec:
    """An encoder by hub id ("ntu-spml/distilhubert"), by the folder that holds it, or in an exported file. No torch.

    Raises EncoderError, with what to do, where it cannot be had, holds pickles only, or is of no known family.
    """
    folder = Path(name).expanduser()
    if is_exported(folder):
        from embedkit.encoders import exported

        return exported.resolve(folder)
    if folder.is_dir():
        id_, revision = folder.resolve().name, ""
    else:
        folder = _from_hub(name)
        id_, revision = name, folder.name
    _check_files(folder, name)
    config = _read_json(folder / CONFIG)
    if (rate := _read_json(folder / PREPROCESSOR).get("sampling_rate", RATE)) != RATE:
        raise EncoderError(f"{name}: it wants {rate} Hz; embedkit's sound is {RATE} Hz: choose another encoder")
    family = _family_of(config, name)
    layers, dim = family.geometry(config)
    files = weight_files(folder)
    return Spec(
        id=id_,
        folder=folder,
        revision=revision,
        weights_digest=_digest(files),
        random=(folder / RANDOM_MARKER).exists(),
        family=family.__name__.rsplit(".", 1)[-1],  # type: ignore[attr-defined]
        layers=layers,
        dim=dim,
        parameters=sum(n for file in files for key, n in _tensor_sizes(file).items() if family.is_used(key)),
    )


def is_exported(path: Path) -> bool:
    """Whether it is a file of `stitch-export`, by its name."""
    return path.suffix == ".onnx"


def slug(name: str) -> str:
    """The name under cache/<recipe>/ of what `resolve` would find, without looking into it."""
    path = Path(name).expanduser()
    if is_exported(path):
        from embedkit.encoders import exported

        name = exported.name_of(path)
    elif path.is_dir():
        name = path.resolve().name
    return name.replace("/", "--")


def load(spec: Spec, precision: str = "fp32", device: str = "cpu", crop: bool = False) -> Encoder:
    """The encoder, ready to pool. precision: "fp32" or "bf16"; device: "cpu" or "cuda"; crop: of a Whisper encoder
    (`Sound.crop`).

    Raises EncoderError where the weights do not fit the config.
    """
    if precision not in ("fp32", "bf16"):
        raise EncoderError(f"precision '{precision}'{did_you_mean(precision, ['fp32', 'bf16'])}")
    return _family(spec.family).load(spec, precision, device, crop)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order of their names.

    Raises EncoderError where the index of a sharded one names a file outside the folder, or one that is not there.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    names = sorted(set(_read_json(folder / INDEX).get("weight_map", {}).values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise EncoderError(f"{folder / INDEX}: no weights '{name}' beside it; download the checkpoint again")
    return [folder / name for name in names]


def _families() -> Iterator[Family]:
    for module in pkgutil.iter_modules(__path__):
        family = importlib.import_module(f"{__name__}.{module.name}")
        if hasattr(family, "MODEL_TYPES"):
            yield cast(Family, family)


def _family(name: str) -> Family:
    return cast(Family, importlib.import_module(f"{__name__}.{name}"))


def _family_of(config: Mapping[str, Any], name: str) -> Family:
    model_type = str(config.get("model_type", ""))
    families = {known: family for family in _families() for known in family.MODEL_TYPES}
    if model_type not in families:
        raise EncoderError(f"{name}: no encoder of model_type '{model_type}'{did_you_mean(model_type, families)}")
    return families[model_type]


def _check_files(folder: Path, name: str) -> None:
    """config.json, preprocessor_config.json and safetensors are there; EncoderError says what to do."""
    has_weights = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    if not has_weights and any(folder.glob("*.bin")):
        raise EncoderError(pickles_only(name))
    for file, there in (
        (CONFIG, (folder / CONFIG).is_file()),
        (WEIGHTS, has_weights),
        (PREPROCESSOR, (folder / PREPROCESSOR).is_file()),
    ):
        if not there:
            raise EncoderError(
                f"{name}: {file} is missing; an encoder's folder holds {CONFIG}, {PREPROCESSOR} and {WEIGHTS}"
            )


def pickles_only(name: str) -> str:
    return (
        f"{name}: its weights are pickles (pytorch_model.bin), which can run code and are never read; convert them"
        f" where you trust them: python -c \"from transformers import AutoModel; AutoModel.from_pretrained('{name}')"
        f".save_pretrained('DIR')\", copy {PREPROCESSOR} into DIR, and give --encoder DIR"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path}: cannot be read as JSON ({error}); download the checkpoint again") from None
    if not isinstance(data, dict):
        raise EncoderError(f"{path}: expected a JSON object; download the checkpoint again")
    return data


def _digest(files: list[Path]) -> str:
    """SHA-256 over the files' bytes, one after the other: of a single file, the hub's own."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _tensor_sizes(file: Path) -> dict[str, int]:
    """{weight: its number of elements}, from a safetensors file's header alone."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
        return {key: math.prod(value["shape"]) for key, value in header.items() if key != "__metadata__"}
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        raise EncoderError(f"{file}: not a safetensors file, or cut short; download the checkpoint again") from None


# ---------------------------------------------------------------- from the hub


def _from_hub(name: str) -> Path:
    """The local snapshot of a hub id, downloaded where it is not here yet. Raises EncoderError."""
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name):
        near = [known for known in PINNED if known.endswith(f"/{name}")]
        hint = f"did you mean '{near[0]}'?" if near else "give a folder, or a hub id such as ntu-spml/distilhubert"
        raise EncoderError(f"{name}: no such folder; {hint}")
    revision = PINNED.get(name, "main")
    return _cached(name, revision) or _download(name, revision)


def _cached(name: str, revision: str) -> Path | None:
    """The snapshot in the local Hugging Face cache, if all of it is there."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=_WANTED))
        _check_files(folder, name)
        weight_files(folder)
    except (OSError, EncoderError):
        return None
    return folder


_WANTED = [CONFIG, PREPROCESSOR, WEIGHTS, INDEX, "model-*.safetensors"]


def _download(name: str, revision: str) -> Path:
    import huggingface_hub as hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        # A hub that cannot be reached would cost 23 s of retries; this asks once.
        hub.get_hf_file_metadata(hub.hf_hub_url(name, CONFIG, revision=revision), timeout=PROBE_SECONDS)
        files = hub.list_repo_files(name, revision=revision)
        if not any(file in (WEIGHTS, INDEX) for file in files):
            raise EncoderError(pickles_only(name))
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=_WANTED))
    except EncoderError:
        raise
    except GatedRepoError:
        raise EncoderError(
            f"{name}: its owner asks for a login; accept its terms on the hub, then: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise EncoderError(f"{name}: neither a folder here nor a model on the hub; is it spelt right?") from None
    except RevisionNotFoundError:
        raise EncoderError(
            f"{name}: the hub has no revision '{revision}' of it any more; download another, give its folder"
        ) from None
    except Exception as error:  # the hub's client changed its network library twice: any failure means "not to be had"
        raise EncoderError(
            f"{name}: not in the local Hugging Face cache, and the hub cannot be reached ({_one_line(error)});"
            f" where it can: hf download {name} --revision {revision}, or give a folder that holds it"
        ) from None


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


# ---------------------------------------------------------------- shared by the families


def pretrained(spec: Spec) -> tuple[Any, tuple[str, ...]]:
    """transformers' own model in fp32 and evaluation mode, and the checkpoint's weights that it has no use for.

    Raises EncoderError where a weight is missing or has another shape (transformers would fill it at random).
    """
    import torch
    from transformers import AutoModel

    try:
        with _quiet():
            model, info = AutoModel.from_pretrained(
                spec.folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # a damaged checkpoint fails in many ways, all of which mean the same to the user
        raise EncoderError(f"{spec.id}: the checkpoint does not load ({_one_line(error)}); download it again") from None
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
def _quiet() -> Iterator[None]:
    """transformers' progress bar and its table of unused weights would clutter stderr; we report what matters."""
    from transformers.utils import logging

    its: Any = logging
    verbosity, bar = its.get_verbosity(), its.is_progress_bar_enabled()
    its.set_verbosity_error()
    its.disable_progress_bar()
    try:
        yield
    finally:
        its.set_verbosity(verbosity)
        if bar:
            its.enable_progress_bar()


def check_length(wave: npt.NDArray[np.float32], shortest: int, longest: int | None = None) -> None:
    """Raises ClipError where a clip has too few or too many samples for the encoder."""
    if len(wave) < shortest:
        raise ClipError(
            f"{len(wave)} samples ({len(wave) / RATE:.4f} s): shorter than one frame of the encoder ({shortest})"
        )
    if longest is not None and len(wave) > longest:
        raise ClipError(f"{len(wave) / RATE:.1f} s: longer than the encoder's window of {longest / RATE:.0f} s")


def pooled(states: torch.Tensor) -> npt.NDArray[np.float32]:
    """[layer, frame, dim] to [layer, 2, dim] float32: mean and standard deviation (ddof 0), summed in float64."""
    import torch

    # A CPU takes layer by layer: one stays in its cache.
    parts = torch.split(states, 1) if states.device.type == "cpu" else [states]
    features: npt.NDArray[np.float32] = torch.cat([_mean_and_std(part) for part in parts]).float().cpu().numpy()
    # A copy in numpy's own memory: torch's aligned blocks, kept among large ones that come and go, fragment the heap
    # (measured: 5 MB more a clip with what the caller keeps).
    return features.copy()


def _mean_and_std(states: torch.Tensor) -> torch.Tensor:
    """[layer, frame, dim] to [layer, 2, dim] float64. In place: torch.std takes three times as long."""
    import torch

    frames = states.to(torch.float64, copy=True)
    mean = frames.mean(1, keepdim=True)
    return torch.cat((mean, frames.sub_(mean).square_().mean(1, keepdim=True).sqrt_()), dim=1)
