"""The verbs `study` and `audit`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, cast

from embedkit.cli._common import Verbs, add_verb, find_workspace

if TYPE_CHECKING:
    from embedkit.study import AuditDocument, SeriesAudit, StudyFlags, StudyOutcome


def add_study(verbs: Verbs) -> None:
    """Add the verb `study`."""
    p = add_verb(verbs, "study", _run_study, "folds x heads x seeds on cached features", lambda r: r["table"])
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
        help="hidden_states[N]; all: a result for each of them; concat; weighted (default: last)",
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


def _run_study(args: argparse.Namespace) -> StudyOutcome:
    from embedkit import cards
    from embedkit.study import run_study

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
        find_workspace(args),
        card=args.card,
        flags=cast("StudyFlags", {k: v for k, v in flags.items() if v not in (None, [])}),
        settings=cards.parse_settings(args.set),
        name=args.name,
        partial=args.partial,
        jobs=args.jobs,
    )


def add_audit(verbs: Verbs) -> None:
    """Add the verb `audit`."""
    p = add_verb(
        verbs,
        "audit",
        _run_audit,
        "leaks across the splits of a study; exit code 1 where its card does not allow one by name",
        _show_audit,
        failed=lambda r: not r["passed"],
    )
    p.add_argument("study", metavar="STUDY", help="a study's name (its folder in studies/), or a card of studies/")


def _run_audit(args: argparse.Namespace) -> AuditDocument | SeriesAudit:
    from embedkit.study.series import audit_series

    return audit_series(find_workspace(args), args.study)


def _show_audit(r: AuditDocument | SeriesAudit) -> str:
    from embedkit.study import format_audit

    return format_audit(r)
