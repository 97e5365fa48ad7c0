"""The command line: parse, call, print. What a verb needs is imported only when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedkit import __version__
from embedkit.errors import EmbedkitError, UserError

Verb = Callable[[argparse.Namespace], Any]

SHOWN = 16  # entries of a table that are printed; --json has all


def run(argv: list[str]) -> int:
    """Run one command; returns the exit code: 0, 2 for the user's mistake, 1 for anything else.

    One line on stderr says what went wrong; with --json, stdout is one document, or empty after an error.
    """
    args = parser().parse_args(argv)
    verb: Verb = args.verb
    try:
        result = verb(args)
        code = int(args.failed(result))
        _print(result, args)
        return code
    except EmbedkitError as error:
        print(f"embedkit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("embedkit: interrupted; the same command goes on from here", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nothing to say, nobody to say it to
        return 1
    except Exception as error:
        if args.traceback:
            raise
        kind = type(error).__name__
        print(f"embedkit: {kind}: {_one_line(error)} (a fault of ours; --traceback shows where)", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    root = argparse.ArgumentParser(
        prog="embedkit", description="Speech emotion recognition: encode once, then ask a thousand questions."
    )
    root.add_argument("--version", action="version", version=f"embedkit {__version__}")
    root.add_argument(
        "--workspace", type=Path, metavar="DIR", help="default: nearest folder upward with cache/ heads/ studies/"
    )
    root.add_argument("--traceback", action="store_true", help="show where an unexpected fault happened")
    verbs = root.add_subparsers(title="verbs", metavar="VERB", required=True)
    path = (_extract, _cache, _study, _audit, _stitch_export, _predict, _serve, _evaluate)
    for add in (*path, _corpora, _init, _demo, _bench):
        add(verbs)
    return root


# ---------------------------------------------------------------- verbs


def _extract(verbs: Any) -> None:
    p = _verb(
        verbs,
        "extract",
        _run_extract,
        "encode a corpus once: clean and augmented layer features to HDF5",
        _show_extract,
    )
    p.add_argument(
        "--corpus",
        default="iemocap",
        metavar="NAME",
        help="iemocap, crema-d, ravdess, or a manifest (default: iemocap)",
    )
    p.add_argument("--root", type=Path, metavar="DIR", help="where the corpus lies (a manifest: its .csv)")
    p.add_argument(
        "--recipe", default="exact", metavar="CARD", help="sound, views, precision: a card of cache/ (default: exact)"
    )
    p.add_argument("--encoder", metavar="ENCODER", help="hub id, folder, or an exported .onnx (default: the recipe's)")
    p.add_argument(
        "--views",
        type=int,
        metavar="K",
        help="augmented views beside the clean one; 0: clean only (default: the recipe's)",
    )
    p.add_argument(
        "--labels",
        choices=["mapped", "all"],
        default="mapped",
        help="rows: those of the label map, or every labelled turn",
    )
    p.add_argument(
        "--limit", type=int, metavar="N", help="N rows spread over speakers and labels; the rest stays to do"
    )
    p.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: the number of cores)")
    p.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the recipe, e.g. sound.trim_db=30"
    )
    p.add_argument("--fresh", action="store_true", help="begin a new file in place of one with other settings")


def _run_extract(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit import cards
    from embedkit.extract import extract

    workspace = _workspace(args)
    recipe = cards.read(cards.Recipe, workspace.card("cache", args.recipe), cards.parse_settings(args.set))
    return extract(
        workspace,
        args.corpus,
        root=args.root,
        recipe=recipe,
        encoder=args.encoder,
        views=args.views,
        labels=args.labels,
        limit=args.limit,
        jobs=args.jobs,
        device=args.device,
        fresh=args.fresh,
    )


def _show_extract(r: dict[str, Any]) -> str:
    lines = [f"{r['cache']}: {r['done']} of {r['rows']} rows done, {r['todo']} to do, {len(r['skipped'])} skipped"]
    lines += [f"  skipped {s['id']}: {s['reason']}" for s in r["skipped"]]
    if r["audio_seconds_per_second"]:
        lines.append(f"  {r['audio_seconds_per_second']:.1f} s of sound a second")
    if r.get("weights") == "random":
        lines.append("  weights: random")
    return "\n".join(lines)


def _cache(verbs: Any) -> None:
    p = verbs.add_parser("cache", help="what is cached, of what, complete or not")
    sub = p.add_subparsers(title="what", metavar="WHAT", required=True)
    _verb(sub, "ls", _run_cache_ls, "every cache file of the workspace", _show_rows)
    for name, call, text in (
        ("info", _run_cache_info, "one file: identity, shape, rows"),
        (
            "verify",
            _run_cache_verify,
            "read everything again: features, digests, and each clip where its corpus is found",
        ),
    ):
        q = _verb(sub, name, call, text, _show_pairs, failed=lambda r: bool(r.get("problems")))
        q.add_argument("file", type=Path, metavar="FILE")
        if name == "verify":
            q.add_argument("--root", type=Path, metavar="DIR", help="where the corpus lies")


def _run_cache_ls(args: argparse.Namespace) -> list[dict[str, Any]]:
    from embedkit import cache

    return cache.ls(_workspace(args))


def _run_cache_info(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit import cache

    return cache.info(args.file)


def _run_cache_verify(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit import cache
    from embedkit.errors import CorpusError

    corpus = cache.info(args.file)["corpus"]
    try:
        root = _workspace(args).corpus_root(corpus, args.root)
    except CorpusError as error:
        print(f"embedkit: the recordings are not read again: {error}", file=sys.stderr)
        root = None
    return cache.verify(args.file, root)


def _study(verbs: Any) -> None:
    p = _verb(verbs, "study", _run_study, "folds x heads x seeds on cached features", lambda r: str(r.pop("table")))
    p.add_argument("card", nargs="?", metavar="CARD", help="a card of studies/ (default: built from the flags)")
    p.add_argument("--corpus", metavar="NAME", help="default: iemocap")
    p.add_argument("--recipe", metavar="CARD", help="default: exact")
    p.add_argument("--encoder", metavar="ENCODER", help="hub id, folder, or an exported .onnx (default: the recipe's)")
    p.add_argument(
        "--mix",
        action="append",
        default=[],
        metavar="NAME=FRACTION",
        help="a corpus that joins every training set, e.g. crema-d=1.0",
    )
    p.add_argument("--test", metavar="NAME", help="test on another corpus as a whole")
    p.add_argument("--folds", metavar="KIND", help="loso, speaker, script, clips or shuffle (default: loso)")
    p.add_argument(
        "--head", action="append", default=[], metavar="NAME", help="cards of heads/ (default: mlp logistic lightgbm)"
    )
    p.add_argument(
        "--layer",
        metavar="N|all",
        help="hidden_states[N]; all: each a result of its own; concat; weighted (default: last)",
    )
    p.add_argument("--seeds", type=int, metavar="N", help="seeds 0..N-1 (default: 1)")
    p.add_argument(
        "--trials", type=int, metavar="N", help="search each head's space on validation UA (default: no search)"
    )
    p.add_argument("--storage", metavar="URL", help="an Optuna storage (default: SQLite in the study's folder)")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the study or its heads, e.g. heads.logistic.C=0.05",
    )
    p.add_argument("--name", metavar="NAME", help="the study's folder (default: <corpus>[+mix]-<folds>)")
    p.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: the number of cores)")
    p.add_argument("--partial", action="store_true", help="take an incomplete cache as it is")


def _run_study(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit import cards
    from embedkit.series import run as run_study

    flags = {
        "corpus": args.corpus,
        "recipe": args.recipe,
        "encoder": args.encoder,
        "mix": args.mix,
        "test": args.test,
        "folds": args.folds,
        "heads": args.head,
        "layer": args.layer,
        "seeds": args.seeds,
        "trials": args.trials,
        "storage": args.storage,
    }
    return run_study(
        _workspace(args),
        card=args.card,
        flags={k: v for k, v in flags.items() if v not in (None, [])},
        settings=cards.parse_settings(args.set),
        name=args.name,
        partial=args.partial,
        jobs=args.jobs,
    )


def _audit(verbs: Any) -> None:
    p = _verb(
        verbs,
        "audit",
        _run_audit,
        "what leaks in a study; exit 1 where its card does not allow it by name",
        _show_audit,
        failed=lambda r: not r["passed"],
    )
    p.add_argument("study", metavar="STUDY", help="a study's name (its folder in studies/), or a card of studies/")


def _run_audit(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit.series import audited

    return audited(_workspace(args), args.study)


def _show_audit(r: dict[str, Any]) -> str:
    from embedkit.audit import text

    return text(r)


def _layer(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _stitch_export(verbs: Any) -> None:
    p = _verb(
        verbs,
        "stitch-export",
        _run_stitch_export,
        "encoder and head in one ONNX file, checked against torch",
        _show_stitch,
    )
    p.add_argument("study", nargs="?", metavar="STUDY", help="default: the newest finished study")
    p.add_argument("--head", metavar="NAME", help="default: with arm and layer, the best mean validation UA")
    p.add_argument("--arm", metavar="NAME")
    p.add_argument("--layer", type=_layer, metavar="N", help="a number, concat or weighted")
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
        help="a limit that it is held to, e.g. certificate.size.flips=0.2",
    )
    p.add_argument(
        "--refit",
        action="store_true",
        help="then train the head anew on the file's own features, and write FILE-refit.onnx with what that wins back",
    )
    p.add_argument("--web", type=Path, metavar="DIR", help="write a page there that runs the file in a browser")


def _run_stitch_export(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit import cards, web
    from embedkit.export import stitch

    package = web.fetch() if args.web else None  # what is missing is asked for before minutes of work
    result = stitch(
        _workspace(args),
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
    if args.web:
        result["web"] = web.write(Path(result["model"]), args.web, package)
    return result


def _show_stitch(r: dict[str, Any]) -> str:
    from embedkit.export import modelcard
    from embedkit.report import render

    c = r["certificate"]
    lines = [
        f"{r['model']}: {r['bytes'] / 1e6:.2f} million bytes",
        f"  {c['head']} of study {c['study']}, arm {c['arm']}, layer {c['layer']}; encoder {c['encoder']}",
        "",
        render.text(modelcard.figures(c)),
        "",
        f"model card: {r['card']}",
    ]
    if c["weights"] == "random":
        lines.append("note: the encoder's weights are random, so its answers mean nothing")
    if "web" in r:
        lines.append(f"page: {r['web']['folder']}; see it with: embedkit serve {r['web']['folder']}")
    return "\n".join(lines)


def _predict(verbs: Any) -> None:
    p = _verb(
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


def _run_predict(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit.runtime import Predictor, output

    output.check(args.csv, args.plot, len(args.audio))
    files = Predictor(args.model).predict_many(args.audio, vad=not args.no_vad)
    if args.csv:
        output.write_csv(files, args.csv)
    if args.plot:
        output.draw(files, args.plot)
    return {"files": files}


def _show_predict(r: dict[str, Any]) -> str:
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


def _serve(verbs: Any) -> None:
    p = _verb(verbs, "serve", _run_serve, "a page of stitch-export --web, to this machine alone", lambda _: "stopped")
    p.add_argument("folder", type=Path, metavar="DIR", help="the folder that --web wrote")
    p.add_argument("--port", type=int, default=8000, metavar="N", help="0: any that is free (default: 8000)")


def _run_serve(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit import web

    def announce(address: str) -> None:
        print(f"{args.folder} at {address} until Ctrl-C", file=sys.stderr)

    web.serve(args.folder, args.port, announce)
    return {"folder": str(args.folder)}


def _evaluate(verbs: Any) -> None:
    p = _verb(verbs, "evaluate", _run_evaluate, "an exported file on a whole corpus, clip by clip", _show_evaluate)
    p.add_argument("model", type=Path, metavar="MODEL")
    p.add_argument("--corpus", required=True, metavar="NAME")
    p.add_argument("--root", type=Path, metavar="DIR", help="where the corpus lies")
    p.add_argument(
        "--long",
        action="store_true",
        help="on long recordings composed of the clips and pauses: with and without voice activity detection and"
        " windows; how much more is called neutral than is",
    )
    long = p.add_argument_group("with --long")
    long.add_argument(
        "--held-out",
        action="store_true",
        default=None,
        help="judge each clip by its study's head of the fold that was tested on it",
    )
    long.add_argument("--clips", type=int, metavar="N", help="clips in each recording (default: 4)")
    long.add_argument("--gap", type=float, nargs=2, metavar="S", help="shortest and longest pause (default: 1 6)")
    long.add_argument("--noise", type=float, metavar="DB", help="of half the pauses, against the clips (default: -30)")
    long.add_argument("--seed", type=int, metavar="N", help="of the composition (default: 0)")


def _run_evaluate(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit import corpora
    from embedkit.runtime import Predictor, evaluate

    asked = {k: getattr(args, k) for k in ("held_out", "clips", "gap", "noise", "seed") if getattr(args, k) is not None}
    if asked and not args.long:
        raise UserError(f"--{next(iter(asked)).replace('_', '-')} belongs to --long; give both or neither")
    predictor = Predictor(args.model)
    root = _workspace(args).corpus_root(args.corpus, args.root)
    if args.long:
        from embedkit import neutral

        return neutral.evaluate(_workspace(args), predictor, args.corpus, root, **asked)
    rows = corpora.load(args.corpus, root)
    labels = corpora.reader(args.corpus, root).LABELS
    return {"corpus": args.corpus, **evaluate(predictor, rows, corpora.folder(args.corpus, root), labels)}


def _show_evaluate(r: dict[str, Any]) -> str:
    if "ways" in r:
        from embedkit.neutral import text

        return text(r)
    lines = [f"{r['corpus']}: {r['rows']} clips   WA {r['wa']:.4f}   UA {r['ua']:.4f}   macro F1 {r['macro_f1']:.4f}"]
    names = list(r["f1"])
    lines.append("  said as   " + "".join(f"{n:>11}" for n in names) + "         F1")
    for name, row in zip(names, r["confusion"], strict=True):
        lines.append(f"  {name:<10}" + "".join(f"{n:>11}" for n in row) + f"{r['f1'][name]:>11.4f}")
    lines += [f"  skipped {s['id']}: {s['reason']}" for s in r["skipped"]]
    return "\n".join(lines)


def _corpora(verbs: Any) -> None:
    p = _verb(verbs, "corpora", _run_corpora, "every corpus known: licence, place, how to get it", _show_corpora)
    p.add_argument("name", nargs="?", metavar="NAME", help="read this one and count it")
    p.add_argument("--root", type=Path, metavar="DIR", help="where it lies")


def _run_corpora(args: argparse.Namespace) -> Any:
    from embedkit import corpora

    if args.name:
        return corpora.summary(args.name, _workspace(args).corpus_root(args.name, args.root))
    return [_describe_corpus(args, name) for name in corpora.names()]


def _describe_corpus(args: argparse.Namespace, name: str) -> dict[str, Any]:
    from embedkit import corpora

    try:
        place = str(_workspace(args).corpus_root(name))
    except UserError:
        place = ""
    reader = corpora.reader(name)
    return {"corpus": name, "place": place, "licence": reader.LICENCE, "source": reader.SOURCE}


def _show_corpora(r: Any) -> str:
    if isinstance(r, dict):
        return _show_pairs(r)
    return "\n\n".join(
        f"{c['corpus']}\n  place: {c['place'] or 'not set'}\n  licence: {c['licence']}\n  source: {c['source']}"
        for c in r
    )


def _init(verbs: Any) -> None:
    p = _verb(
        verbs,
        "init",
        _run_init,
        "a workspace elsewhere: the three folders and their cards",
        lambda r: f"workspace: {r['workspace']}",
    )
    p.add_argument("folder", type=Path, metavar="DIR")


def _run_init(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit.workspace import init

    return {"workspace": str(init(args.folder).root)}


def _demo(verbs: Any) -> None:
    p = _verb(
        verbs,
        "demo",
        _run_demo,
        "the whole path on synthetic speech, in a workspace demo/ of its own",
        lambda r: str(r.pop("table")),
    )
    p.add_argument("--folder", type=Path, default=Path("demo"), metavar="DIR", help="default: demo")


def _run_demo(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit.demo import demo

    return demo(args.folder)


def _bench(verbs: Any) -> None:
    p = _verb(verbs, "bench", _run_bench, "what this machine can do, and how near embedkit comes to it", _show_bench)
    p.add_argument("--only", default="", metavar="NAME,...", help="machine, extraction, heads, growth, startup")
    p.add_argument(
        "--full", action="store_true", help="what takes more than 10 minutes too: 100 trials, a million rows"
    )
    p.add_argument("--figure", type=Path, metavar="DIR", help="draw how the cost grows: growth.svg in a folder")


def _run_bench(args: argparse.Namespace) -> dict[str, Any]:
    from embedkit import bench

    only = [name for name in args.only.split(",") if name]
    return bench.run(only, bench.Size(full=args.full), args.figure, lambda line: print(line, file=sys.stderr))


def _show_bench(r: dict[str, Any]) -> str:
    from embedkit.bench import text

    return text(r)


# ---------------------------------------------------------------- shared


def _verb(
    verbs: Any,
    name: str,
    call: Verb,
    text: str,
    show: Callable[[Any], str],
    failed: Callable[[Any], bool] = lambda _: False,
) -> argparse.ArgumentParser:
    p: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    p.add_argument("--json", action="store_true", help="one JSON document on stdout")
    p.set_defaults(verb=call, show=show, failed=failed)
    return p


def _workspace(args: argparse.Namespace) -> Any:
    from embedkit.workspace import Workspace

    return Workspace.find(args.workspace)


def _print(result: Any, args: argparse.Namespace) -> None:
    if args.json:
        if isinstance(result, dict):
            result.pop("table", None)
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(args.show(result))


def _show_pairs(r: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, dict):
            shown = ", ".join(f"{k} {v}" for k, v in list(value.items())[:SHOWN])
            return f"{shown}, ... ({len(value)} in all)" if len(value) > SHOWN else shown or "none"
        if isinstance(value, list):
            return "".join(f"\n  {v}" for v in value) if value else "none"
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    return "\n".join(f"{key}: {text(value)}" for key, value in r.items())


def _show_rows(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "nothing yet; try: embedkit extract --corpus NAME"
    names = list(rows[0])
    table = [names, *([str(r[n]) for n in names] for r in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(names))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"
