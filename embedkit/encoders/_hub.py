"""Checkpoints by hub id: pinned revisions, the local cache, one download."""

from __future__ import annotations

import re
from pathlib import Path

from embedkit.encoders._checkpoint import (
    CONFIG,
    INDEX,
    PREPROCESSOR,
    WEIGHTS,
    check_files,
    explain_pickles,
    list_weight_files,
    shorten_error,
)
from embedkit.errors import EncoderError

# Hub ids, and the revision of each that has safetensors. DistilHuBERT and Whisper have them on main; of the others main
# has pickles, and the hub's own conversion is a pull request.
PINNED = {
    "ntu-spml/distilhubert": "main",
    "facebook/hubert-base-ls960": "refs/pr/2",
    "microsoft/wavlm-base-plus": "refs/pr/1",
    "openai/whisper-tiny.en": "main",
}

PROBE_SECONDS = 2.0  # the longest that we wait for the hub's first answer

_SNAPSHOT_FILES = [CONFIG, PREPROCESSOR, WEIGHTS, INDEX, "model-*.safetensors"]


def fetch_snapshot(name: str) -> Path:
    """The local snapshot of a hub id, which is downloaded where it is missing. Raises EncoderError."""
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name):
        near = [known for known in PINNED if known.endswith(f"/{name}")]
        hint = f"did you mean '{near[0]}'?" if near else "give a folder, or a hub id such as ntu-spml/distilhubert"
        raise EncoderError(f"{name}: no such folder; {hint}")
    revision = PINNED.get(name, "main")
    return _find_cached_snapshot(name, revision) or _download_snapshot(name, revision)


def _find_cached_snapshot(name: str, revision: str) -> Path | None:
    """The snapshot in the local Hugging Face cache, if it is complete."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=_SNAPSHOT_FILES))
        check_files(folder, name)
        list_weight_files(folder)
    except (OSError, EncoderError):
        return None
    return folder


def _download_snapshot(name: str, revision: str) -> Path:
    import huggingface_hub as hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        # One request with a short timeout: the downloads below would try for 23 s to reach a hub that is unreachable.
        hub.get_hf_file_metadata(hub.hf_hub_url(name, CONFIG, revision=revision), timeout=PROBE_SECONDS)
        files = hub.list_repo_files(name, revision=revision)
        if not any(file in (WEIGHTS, INDEX) for file in files):
            raise EncoderError(explain_pickles(name))
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=_SNAPSHOT_FILES))
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
    except Exception as error:  # the hub's client has changed its network library twice, and with it the errors
        raise EncoderError(
            f"{name}: not in the local Hugging Face cache, and the hub cannot be reached ({shorten_error(error)});"
            f" where it can: hf download {name} --revision {revision}, or give a folder that holds it"
        ) from None
