"""The command line: parse, call, print. What a verb needs is imported only when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from embedkit._version import __version__
from embedkit.cli._common import Command, format_error
from embedkit.cli.features import add_cache, add_extract
from embedkit.cli.models import add_evaluate, add_predict, add_serve, add_stitch_export
from embedkit.cli.studies import add_audit, add_study
from embedkit.cli.workspaces import add_bench, add_corpora, add_demo, add_init
from embedkit.errors import EmbedkitError
from embedkit.extras import explain_missing_package


def run(argv: list[str]) -> int:
    """Run one command; returns the exit code: 0, 2 for a mistake of the user, 1 for any other failure.

    One line on stderr says what went wrong. With --json stdout is one document, or empty after an error.
    """
    args = build_parser().parse_args(argv)
    try:
        return _run_verb(args)
    except EmbedkitError as error:
        print(f"embedkit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("embedkit: interrupted; the same command goes on from here", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone, so nobody would read a message
        return 1
    except Exception as error:
        if args.traceback:
            raise
        kind = type(error).__name__
        print(f"embedkit: {kind}: {format_error(error)} (a fault of ours; --traceback shows where)", file=sys.stderr)
        return 1


def _run_verb(args: argparse.Namespace) -> int:
    """Run the verb and print its result. Raises MissingExtraError where a package is not installed."""
    command: Command = args.command
    try:
        return command(args)
    except ModuleNotFoundError as error:
        if args.traceback:
            raise
        raise explain_missing_package(error) from error


def build_parser() -> argparse.ArgumentParser:
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
    path = (
        add_extract,
        add_cache,
        add_study,
        add_audit,
        add_stitch_export,
        add_predict,
        add_serve,
        add_evaluate,
    )
    for add in (*path, add_corpora, add_init, add_demo, add_bench):
        add(verbs)
    return root
