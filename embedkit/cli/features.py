"""The verbs `extract` and `cache`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from embedkit.cli._common import Verbs, add_verb, find_workspace, show_pairs, show_rows
from embedkit.errors import CorpusError

if TYPE_CHECKING:
    from embedkit.cache import CacheDescription, CacheListing, CacheVerification
    from embedkit.extract import ExtractReport


def add_extract(verbs: Verbs) -> None:
    """Add the verb `extract`."""
    p = add_verb(
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


def _run_extract(args: argparse.Namespace) -> ExtractReport:
    from embedkit import cards
    from embedkit.extract import extract_corpus

    workspace = find_workspace(args)
    recipe = cards.read(cards.Recipe, workspace.card("cache", args.recipe), cards.parse_settings(args.set))
    return extract_corpus(
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


def _show_extract(r: ExtractReport) -> str:
    lines = [f"{r['cache']}: {r['done']} of {r['rows']} rows done, {r['todo']} to do, {len(r['skipped'])} skipped"]
    lines += [f"  skipped {s['id']}: {s['reason']}" for s in r["skipped"]]
    if r["audio_seconds_per_second"]:
        lines.append(f"  {r['audio_seconds_per_second']:.1f} s of sound a second")
    if r.get("weights") == "random":
        lines.append("  weights: random")
    return "\n".join(lines)


def add_cache(verbs: Verbs) -> None:
    """Add the verb `cache` with its own verbs `ls`, `info` and `verify`."""
    p = verbs.add_parser("cache", help="what is cached, of what, complete or not")
    sub = p.add_subparsers(title="what", metavar="WHAT", required=True)
    add_verb(sub, "ls", _run_cache_ls, "every cache file of the workspace", show_rows)
    info = add_verb(sub, "info", _run_cache_info, "one file: identity, shape, rows", show_pairs)
    info.add_argument("file", type=Path, metavar="FILE")
    verify = add_verb(
        sub,
        "verify",
        _run_cache_verify,
        "read everything again: features, digests, and each clip where its corpus is found",
        show_pairs,
        failed=lambda r: bool(r["problems"]),
    )
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.add_argument("--root", type=Path, metavar="DIR", help="where the corpus lies")


def _run_cache_ls(args: argparse.Namespace) -> list[CacheListing]:
    from embedkit import cache

    return cache.list_caches(find_workspace(args))


def _run_cache_info(args: argparse.Namespace) -> CacheDescription:
    from embedkit import cache

    return cache.describe_cache(args.file)


def _run_cache_verify(args: argparse.Namespace) -> CacheVerification:
    from embedkit import cache

    corpus = cache.describe_cache(args.file)["corpus"]
    try:
        root = find_workspace(args).resolve_corpus_root(corpus, args.root)
    except CorpusError as error:
        print(f"embedkit: the recordings are not read again: {error}", file=sys.stderr)
        root = None
    return cache.verify(args.file, root)
