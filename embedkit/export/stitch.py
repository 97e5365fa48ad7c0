"""The export: collect the inputs, make the graph small, certify it on real clips, write it whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit import cards, files
from embedkit.errors import CardError, EmbedkitError, UserError, did_you_mean
from embedkit.export import modelcard
from embedkit.export.clips import CERTIFICATE_CLIPS, select_clips
from embedkit.export.document import CertificateDocument, CertificateExtra, ExportDocument, FileOrigin
from embedkit.export.parts import StitchInputs, build_metadata, collect_inputs, describe_origin, identify_file
from embedkit.export.reference import build_float_graph, certify_file
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
    clips: int = CERTIFICATE_CLIPS,
    settings: Mapping[str, object] | None = None,
    extra: CertificateExtra | None = None,
) -> ExportDocument:
    """Write a study's head with its encoder as one ONNX file; returns {model, bytes, certificate, card}.

    study None: the newest finished study; head, arm, layer None: those with the best mean validation UA. root: where
    the corpus lies that the study was tested on; `clips` of its recordings certify the file, spread over speakers and
    labels. settings: limits that override those of the study's card ({"certificate.size.flips": 0.2}). extra: what else
    the certificate says.

    The certificate lies beside the file as JSON, and in the model card for people. Raises UserError for settings that
    are wrong, and EmbedkitError where the file differs from torch by more than the limits allow: then the file is not
    written, only its certificate, under a name that says so.
    """
    if clips < 1:
        raise UserError(f"a certificate of {clips} clips; give at least 1")
    inputs = collect_inputs(workspace, study, arm=arm, head=head, layer=layer)
    profile = _resolve_profile(inputs, profile)
    path = _check_output_path(output or inputs.study.plan.folder / f"{inputs.choice.head}-{profile}.onnx")
    return _export_file(inputs, workspace, profile, path, root, clips, settings, extra)


def _resolve_profile(inputs: StitchInputs, requested: str | None) -> str:
    """The profile that was asked for, else `size`; for a study on features of an exported file, that file's profile."""
    from embedkit.export import assemble, quantize

    if requested and requested not in quantize.PROFILES:
        raise UserError(f"profile '{requested}'{did_you_mean(requested, quantize.PROFILES)}")
    if inputs.spec.family != "exported":
        return requested or "size"
    file_profile = assemble.read_metadata(inputs.spec.folder)["profile"]
    if requested not in (None, file_profile):
        raise UserError(
            f"{inputs.spec.folder}: it is of profile {file_profile}, and so is what is made of it; leave --profile out"
        )
    return file_profile


def _export_file(
    inputs: StitchInputs,
    workspace: Workspace,
    profile: str,
    path: Path,
    root: Path | None,
    clips: int,
    settings: Mapping[str, object] | None,
    extra: CertificateExtra | None,
) -> ExportDocument:
    """Make the file, certify it and write it."""
    from embedkit.export import assemble, quantize

    limits = _read_limits(inputs, settings)
    certificate_clips = select_clips(inputs, workspace, root, clips)
    float_graph = build_float_graph(inputs)
    if inputs.spec.family == "exported":  # all but the new head is as small as it will be
        profile_graph = float_graph if profile == "float" else quantize.quantize_to_8_bits(float_graph)
    else:
        profile_graph = quantize.PROFILES[profile](
            float_graph, [] if profile == "float" else certificate_clips.decode_calibration()
        )
    counts = quantize.check_profile(profile_graph, profile)
    data = assemble.serialize_model(profile_graph, build_metadata(inputs, profile))
    way_limits = {"float": limits.float, "file": getattr(limits, profile)}
    certificate: CertificateDocument = {
        **identify_file(inputs, profile, data),
        **certify_file(inputs, certificate_clips, assemble.serialize_model(float_graph, {}), data, way_limits),
        "quantized": counts["nodes"],
        "four_bit": counts["four_bit"],
        "integer_products": counts["integer"],
        "weight_bytes": counts["bytes"],
        **(extra or {}),
    }
    card = _write_files(path, data, certificate, describe_origin(inputs))
    return {"model": str(path), "bytes": len(data), "certificate": certificate, "card": str(card)}


def _check_output_path(path: Path) -> Path:
    """The path of the file; UserError, before the long work, where it cannot be written there."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it, or give another -o")
    if path.suffix != ".onnx":
        raise UserError(f"{path}: give it a name that ends in .onnx; its certificate and model card lie beside it")
    return path


def _read_limits(inputs: StitchInputs, settings: Mapping[str, object] | None) -> Certificate:
    """The limits of the study's card, overridden by settings; CardError for settings that are wrong."""
    for key in settings or {}:
        if not key.startswith("certificate."):
            raise CardError(f"--set {key}: an export knows only certificate.PROFILE.LIMIT, e.g. certificate.size.flips")
    study = inputs.study.plan.study
    card_settings = study.model_dump(mode="json", include={"certificate"})
    return cards.build(cards.Study, card_settings, settings, where=study.name).certificate


def _write_files(path: Path, data: bytes, certificate: CertificateDocument, about: FileOrigin) -> Path:
    """Write the certificate, the model card, then the file, each whole or not at all. Returns the card's path.

    Raises EmbedkitError where limits are exceeded: then there is only the certificate, and its name says so.
    """
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
    files.write_bytes(card, modelcard.build_page(path.name, certificate, about).encode())
    files.write_bytes(path, data)
    return card
