"""The verbs `corpora`, `init`, `demo` and `bench`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from embedkit.cli._common import Verbs, add_verb, find_workspace, show_pairs
from embedkit.errors import UserError

if TYPE_CHECKING:
    from embedkit.bench import BenchDocument
    from embedkit.corpora import CorpusSummary
    from embedkit.demo import DemoDocument


class CorpusDescription(TypedDict):
    """A corpus of `corpora`: where it lies here ("": not set), its licence and how to get it."""

    corpus: str
    place: str
    licence: str
    source: str


class CreatedWorkspace(TypedDict):
    """The document of `init`."""

    workspace: str  # its folder


def add_corpora(verbs: Verbs) -> None:
    """Add the verb `corpora`."""
    p = add_verb(verbs, "corpora", _run_corpora, "every corpus known: licence, place, how to get it", _show_corpora)
    p.add_argument("name", nargs="?", metavar="NAME", help="read this one and count it")
    p.add_argument("--root", type=Path, metavar="DIR", help="where it lies")


def _run_corpora(args: argparse.Namespace) -> CorpusSummary | list[CorpusDescription]:
    from embedkit import corpora

    if args.name:
        return corpora.summarise_corpus(args.name, find_workspace(args).resolve_corpus_root(args.name, args.root))
    return [_describe_corpus(args, name) for name in corpora.list_corpora()]


def _describe_corpus(args: argparse.Namespace, name: str) -> CorpusDescription:
    from embedkit import corpora

    try:
        place = str(find_workspace(args).resolve_corpus_root(name))
    except UserError:
        place = ""
    reader = corpora.find_reader(name)
    return {"corpus": name, "place": place, "licence": reader.LICENCE, "source": reader.SOURCE}


def _show_corpora(r: CorpusSummary | list[CorpusDescription]) -> str:
    if not isinstance(r, list):
        return show_pairs(r)
    return "\n\n".join(
        f"{c['corpus']}\n  place: {c['place'] or 'not set'}\n  licence: {c['licence']}\n  source: {c['source']}"
        for c in r
    )


def add_init(verbs: Verbs) -> None:
    """Add the verb `init`."""
    p = add_verb(
        verbs,
        "init",
        _run_init,
        "a workspace elsewhere: the three folders and their cards",
        lambda r: f"workspace: {r['workspace']}",
    )
    p.add_argument("folder", type=Path, metavar="DIR")


def _run_init(args: argparse.Namespace) -> CreatedWorkspace:
    from embedkit.workspace import init_workspace

    return {"workspace": str(init_workspace(args.folder).root)}


def add_demo(verbs: Verbs) -> None:
    """Add the verb `demo`."""
    p = add_verb(
        verbs,
        "demo",
        _run_demo,
        "the whole path on synthetic speech, in a new workspace demo/",
        lambda r: r["table"],
    )
    p.add_argument("--folder", type=Path, default=Path("demo"), metavar="DIR", help="default: demo")


def _run_demo(args: argparse.Namespace) -> DemoDocument:
    from embedkit.demo import run_demo

    return run_demo(args.folder)


def add_bench(verbs: Verbs) -> None:
    """Add the verb `bench`."""
    p = add_verb(
        verbs, "bench", _run_bench, "what this machine can do, and how close embedkit comes to it", _show_bench
    )
    p.add_argument("--only", default="", metavar="NAME,...", help="machine, extraction, heads, growth, startup")
    p.add_argument(
        "--full", action="store_true", help="what takes more than 10 minutes too: 100 trials, a million rows"
    )
    p.add_argument("--figure", type=Path, metavar="DIR", help="draw how the cost grows: growth.svg in a folder")


def _run_bench(args: argparse.Namespace) -> BenchDocument:
    from embedkit import bench

    only = [name for name in args.only.split(",") if name]
    return bench.run(only, bench.Size(full=args.full), args.figure, lambda line: print(line, file=sys.stderr))


def _show_bench(r: BenchDocument) -> str:
    from embedkit.bench import format_page

    return format_page(r)
