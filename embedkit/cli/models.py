"""The verbs `stitch-export`, `predict`, `serve` and `evaluate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast, final

from embedkit.cli._common import Verbs, add_verb, find_workspace
from embedkit.errors import UserError

if TYPE_CHECKING:
    from embedkit.evaluation import ClipEvaluation, LongEvaluation
    from embedkit.export.document import ExportDocument
    from embedkit.runtime import AnyPrediction
    from embedkit.web.pages import WrittenPage

    class PagedExport(ExportDocument):
        """The document of `stitch-export --web`: of an export, and of the page that was written."""

        web: WrittenPage

    @final
    class EvaluateDocument(ClipEvaluation):
        """The document of `evaluate` without `--long`."""

        corpus: str


class PredictDocument(TypedDict):
    """The document of `predict`."""

    files: list[AnyPrediction]


class ServeDocument(TypedDict):
    """The document of `serve`, once it has been stopped."""

    folder: str


def _parse_layer(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def add_stitch_export(verbs: Verbs) -> None:
    """Add the verb `stitch-export`."""
    p = add_verb(
        verbs,
        "stitch-export",
        _run_stitch_export,
        "encoder and head in one ONNX file, checked against torch",
        _show_stitch,
    )
    p.add_argument("study", nargs="?", metavar="STUDY", help="default: the newest finished study")
    p.add_argument("--head", metavar="NAME", help="default: with arm and layer, the best mean validation UA")
    p.add_argument("--arm", metavar="NAME")
    p.add_argument("--layer", type=_parse_layer, metavar="N", help="a number, concat or weighted")
    p.add_argument(
        "--profile",
        choices=["size", "speed", "small", "float"],
        help="size: 8-bit weights (default); speed: 8-bit integers; small: 4-bit weights; float: the reference",
    )
    p.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: studies/<study>/<head>-<profile>.onnx")
    p.add_argument(
        "--clips", type=int, metavar="N", help="real clips that certify it (default: 1000, or all there are)"
    )
    p.add_argument("--root", type=Path, metavar="DIR", help="where the corpus lies that the study was tested on")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a limit that the file must keep, e.g. certificate.size.flips=0.2",
    )
    p.add_argument(
        "--refit",
        action="store_true",
        help="then train the head anew on the file's own features, and write FILE-refit.onnx with what that wins back",
    )
    p.add_argument("--web", type=Path, metavar="DIR", help="write a page there that runs the file in a browser")


def _run_stitch_export(args: argparse.Namespace) -> ExportDocument | PagedExport:
    from embedkit import cards, web
    from embedkit.refit import stitch_export

    package = web.fetch_runtime() if args.web else None  # before minutes of work, because it can fail
    exported = stitch_export(
        find_workspace(args),
        study=args.study,
        head=args.head,
        arm=args.arm,
        layer=args.layer,
        profile=args.profile,
        output=args.output,
        root=args.root,
        settings=cards.parse_settings(args.set),
        refit=args.refit,
        **({} if args.clips is None else {"clips": args.clips}),
    )
    if not args.web:
        return exported
    return {**exported, "web": web.write_page(Path(exported["model"]), args.web, package)}


def _show_stitch(r: ExportDocument | PagedExport) -> str:
    from embedkit.export import modelcard
    from embedkit.report import render

    c = r["certificate"]
    lines = [
        f"{r['model']}: {r['bytes'] / 1e6:.2f} million bytes",
        f"  {c['head']} of study {c['study']}, arm {c['arm']}, layer {c['layer']}; encoder {c['encoder']}",
        "",
        render.render_text(modelcard.describe_certificate(c)),
        "",
        f"model card: {r['card']}",
    ]
    if c["weights"] == "random":
        lines.append("note: the encoder's weights are random, so its answers mean nothing")
    if "web" in r:
        folder = cast("PagedExport", r)["web"]["folder"]
        lines.append(f"page: {folder}; see it with: embedkit serve {folder}")
    return "\n".join(lines)


def add_predict(verbs: Verbs) -> None:
    """Add the verb `predict`."""
    p = add_verb(
        verbs,
        "predict",
        _run_predict,
        "probabilities of recordings, from the exported file alone",
        _show_predict,
        failed=lambda r: any("error" in f for f in r["files"]),
    )
    p.add_argument("model", type=Path, metavar="MODEL")
    p.add_argument("audio", nargs="+", type=Path, metavar="AUDIO")
    p.add_argument("--no-vad", action="store_true", help="take the whole recording, not only its speech")
    p.add_argument("--csv", type=Path, metavar="FILE", help="write a table too, one row a window")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw the probabilities over time: .png, .svg, .pdf")


def _run_predict(args: argparse.Namespace) -> PredictDocument:
    from embedkit.runtime import Predictor, output

    output.check_writable(args.csv, args.plot, len(args.audio))
    files = Predictor(args.model).predict_many(args.audio, vad=not args.no_vad)
    if args.csv:
        output.write_csv(files, args.csv)
    if args.plot:
        output.draw_picture(files, args.plot)
    return {"files": files}


def _show_predict(r: PredictDocument) -> str:
    lines = []
    for f in r["files"]:
        if "error" in f:
            lines.append(f"{f['file']}: {f['error']}")
            continue
        shares = "  ".join(f"{name} {p:.3f}" for name, p in (f["probabilities"] or {}).items())
        lines.append(f"{f['file']}: {f['label'] or 'no speech'}  {shares}")
        lines += [
            f"  {w['start']:8.2f} - {w['end']:8.2f} s  "
            + "  ".join(f"{n} {p:.3f}" for n, p in w["probabilities"].items())
            for w in f["windows"]
        ]
    return "\n".join(lines)


def add_serve(verbs: Verbs) -> None:
    """Add the verb `serve`."""
    p = add_verb(
        verbs, "serve", _run_serve, "a page of stitch-export --web, to this machine alone", lambda _: "stopped"
    )
    p.add_argument("folder", type=Path, metavar="DIR", help="the folder that --web wrote")
    p.add_argument("--port", type=int, default=8000, metavar="N", help="0: any that is free (default: 8000)")


def _run_serve(args: argparse.Namespace) -> ServeDocument:
    from embedkit import web

    def announce(address: str) -> None:
        print(f"{args.folder} at {address} until Ctrl-C", file=sys.stderr)

    web.serve(args.folder, args.port, announce)
    return {"folder": str(args.folder)}


def add_evaluate(verbs: Verbs) -> None:
    """Add the verb `evaluate`."""
    p = add_verb(verbs, "evaluate", _run_evaluate, "an exported file on a whole corpus, clip by clip", _show_evaluate)
    p.add_argument("model", type=Path, metavar="MODEL")
    p.add_argument("--corpus", required=True, metavar="NAME")
    p.add_argument("--root", type=Path, metavar="DIR", help="where the corpus lies")
    p.add_argument(
        "--long",
        action="store_true",
        help="on long recordings composed of the clips and pauses: with and without voice activity detection and"
        " windows; how many more are predicted as neutral than are",
    )
    long = p.add_argument_group("with --long")
    long.add_argument(
        "--held-out",
        action="store_true",
        default=None,
        help="predict each clip with the head of the fold of the study that was tested on it",
    )
    long.add_argument("--clips", type=int, metavar="N", help="clips in each recording (default: 4)")
    long.add_argument("--gap", type=float, nargs=2, metavar="S", help="shortest and longest pause (default: 1 6)")
    long.add_argument("--noise", type=float, metavar="DB", help="of half the pauses, against the clips (default: -30)")
    long.add_argument("--seed", type=int, metavar="N", help="of the composition (default: 0)")


def _run_evaluate(args: argparse.Namespace) -> EvaluateDocument | LongEvaluation:
    from embedkit import corpora
    from embedkit.evaluation import evaluate_clips
    from embedkit.runtime import Predictor

    long_options = {
        k: getattr(args, k) for k in ("held_out", "clips", "gap", "noise", "seed") if getattr(args, k) is not None
    }
    if long_options and not args.long:
        raise UserError(f"--{next(iter(long_options)).replace('_', '-')} belongs to --long; give both or neither")
    predictor = Predictor(args.model)
    root = find_workspace(args).resolve_corpus_root(args.corpus, args.root)
    if args.long:
        from embedkit.evaluation import long

        return long.evaluate_recordings(find_workspace(args), predictor, args.corpus, root, **long_options)
    rows = corpora.load(args.corpus, root)
    labels = corpora.find_reader(args.corpus, root).LABELS
    return {"corpus": args.corpus, **evaluate_clips(predictor, rows, corpora.folder(args.corpus, root), labels)}


def _show_evaluate(r: EvaluateDocument | LongEvaluation) -> str:
    if "ways" in r:
        from embedkit.evaluation.table import format_evaluation

        return format_evaluation(r)
    lines = [f"{r['corpus']}: {r['rows']} clips   WA {r['wa']:.4f}   UA {r['ua']:.4f}   macro F1 {r['macro_f1']:.4f}"]
    names = list(r["f1"])
    lines.append("  predicted " + "".join(f"{n:>11}" for n in names) + "         F1")
    for name, row in zip(names, r["confusion"], strict=True):
        lines.append(f"  {name:<10}" + "".join(f"{n:>11}" for n in row) + f"{r['f1'][name]:>11.4f}")
    lines += [f"  skipped {s['id']}: {s['reason']}" for s in r["skipped"]]
    return "\n".join(lines)
