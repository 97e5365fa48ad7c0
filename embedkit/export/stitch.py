"""Stitch: encoder and head as one ONNX file, raw samples in, probabilities out, certified before it gets its name.

graph.py     the torch modules that become the graph
files.py     torch to ONNX, encoder and head into one, metadata
quantize/    the profiles
certify.py   torch against the graph, on real clips
cost.py      time and memory of one clip
modelcard.py all of that, for people
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedkit import files
from embedkit.errors import EmbedkitError, UserError, did_you_mean
from embedkit.export.clips import CLIPS, _clips
from embedkit.export.parts import Parts, _about, _metadata, _of, _parts
from embedkit.export.reference import _checked, _float_graph
from embedkit.workspace import Workspace

if TYPE_CHECKING:
    from embedkit.cards import Certificate


def stitch_study(
    workspace: Workspace,
    study: str | None = None,
    head: str | None = None,
    arm: str | None = None,
    layer: int | str | None = None,
    profile: str | None = None,
    output: Path | None = None,
    *,
    root: Path | None = None,
    clips: int = CLIPS,
    settings: Mapping[str, Any] | None = None,
    refit: bool = False,
) -> dict[str, Any]:
    """Write a study's head with its encoder as one ONNX file; returns {model, bytes, certificate, card}.

    study: None: the newest finished one; head, arm, layer: None: those with the best mean validation UA. root: where
    the corpus lies that the study was tested on, for the certificate's clips: so many, spread over speakers and labels.
    settings: limits that win over those of the study's card ({"certificate.size.flips": 0.2}). refit: then train the
    head anew on the file's own features (`export/refit.py`), and write and return that file, `<file>-refit.onnx`.

    The certificate lies beside the file as JSON, and in the model card for people. Raises UserError for what cannot be
    asked, and EmbedkitError where the file and torch part further than the limits allow: then the file is not written,
    only its certificate, under a name that says so.
    """
    from embedkit import refit as refitting

    if clips < 1:
        raise UserError(f"a certificate of {clips} clips; give at least 1")
    parts = _parts(workspace, study, {"head": head, "arm": arm, "layer": layer})
    profile = _profile(parts, profile)
    path = _place(output or parts.study.plan.folder / f"{parts.choice.head}-{profile}.onnx")
    made = _export(parts, workspace, profile, path, root, clips, settings)
    if not refit:
        return made
    roots = {parts.corpus: root} if root else {}
    name = refitting.run(workspace, parts.study, parts.choice, path, roots).study.name
    anew = _parts(workspace, name, {})
    won = refitting.won_back(parts.study, parts.choice, anew.study, anew.choice)
    return _export(
        anew, workspace, profile, path.with_stem(f"{path.stem}-refit"), root, clips, settings, {"refit": won}
    )


def _profile(parts: Parts, asked: str | None) -> str:
    """What was asked for, else `size`; of a study on an exported file's features the file's own."""
    from embedkit.export import assemble, quantize

    if asked and asked not in quantize.PROFILES:
        raise UserError(f"profile '{asked}'{did_you_mean(asked, quantize.PROFILES)}")
    if parts.spec.family != "exported":
        return asked or "size"
    own = assemble.metadata(parts.spec.folder)["profile"]
    if asked not in (None, own):
        raise UserError(
            f"{parts.spec.folder}: it is of profile {own}, and so is what is made of it; leave --profile out"
        )
    return own


def _export(
    parts: Parts,
    workspace: Workspace,
    profile: str,
    path: Path,
    root: Path | None,
    clips: int,
    settings: Mapping[str, Any] | None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make the file, certify it and write it; more: what else its certificate says."""
    from embedkit.export import assemble, quantize

    limits = _limits(parts, settings)
    heard = _clips(parts, workspace, root, clips)
    plain = _float_graph(parts)
    if parts.spec.family == "exported":  # all but the new head is as small as it will be
        final = plain if profile == "float" else quantize.in_8_bits(plain)
    else:
        final = quantize.PROFILES[profile](plain, [] if profile == "float" else heard.calibration())
    counts = quantize.check(final, profile)
    data = assemble.finished(final, _metadata(parts, profile))
    held = {"float": limits.float, "file": getattr(limits, profile)}
    certificate = {
        **_of(parts, profile, data),
        **_checked(parts, heard, assemble.finished(plain, {}), data, held),
        "quantized": counts["nodes"],
        "four_bit": counts["four_bit"],
        "integer_products": counts["integer"],
        "weight_bytes": counts["bytes"],
        **(more or {}),
    }
    card = _write(path, data, certificate, _about(parts))
    return {"model": str(path), "bytes": len(data), "certificate": certificate, "card": str(card)}


def _place(path: Path) -> Path:
    """Where the file will lie; UserError before the long work where it cannot."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it, or give another -o")
    if path.suffix != ".onnx":
        raise UserError(f"{path}: give it a name that ends in .onnx; its certificate and model card lie beside it")
    return path


def _limits(parts: Parts, settings: Mapping[str, Any] | None) -> Certificate:
    """The limits of the study's card, and what is set beside them; CardError for what cannot be."""
    from embedkit import cards
    from embedkit.errors import CardError

    for key in settings or {}:
        if not key.startswith("certificate."):
            raise CardError(f"--set {key}: an export knows only certificate.PROFILE.LIMIT, e.g. certificate.size.flips")
    study = parts.study.plan.study
    own = study.model_dump(mode="json", include={"certificate"})
    return cards.build(cards.Study, own, settings, where=study.name).certificate


def _write(path: Path, data: bytes, certificate: dict[str, Any], about: dict[str, Any]) -> Path:
    """The certificate, the model card, then the file; none bears its name before it is whole. Returns the card's place.

    EmbedkitError past the limits: then there is only the certificate, and its name says so.
    """
    from embedkit.export import modelcard

    document = (json.dumps(certificate, indent=1) + "\n").encode()
    rejected, card = path.with_suffix(".rejected.certificate.json"), path.with_suffix(".md")
    if past := certificate["past_limits"]:
        files.write_bytes(rejected, document)
        raise EmbedkitError(
            f"{'; '.join(past)}: no file is written, see {rejected};"
            " try another profile or head, or other limits (--set certificate.PROFILE.LIMIT=VALUE)"
        )
    rejected.unlink(missing_ok=True)
    files.write_bytes(path.with_suffix(".certificate.json"), document)
    files.write_bytes(card, modelcard.page(path.name, certificate, about).encode())
    files.write_bytes(path, data)
    return card
