"""The command line: parse, call, print. What a verb needs is imported only when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from embedkit import __version__
from embedkit.cli._common import Verb, format_error, print_result
from embedkit.cli.features import add_cache, add_extract
from embedkit.cli.models import add_evaluate, add_predict, add_serve, add_stitch_export
from embedkit.cli.studies import add_audit, add_study
from embedkit.cli.workspaces import add_bench, add_corpora, add_demo, add_init
from embedkit.errors import EmbedkitError


def run(argv: list[str]) -> int:
    """Run one command; returns the exit code: 0, 2 for the user's mistake, 1 for anything else.

    One line on stderr says what went wrong; with --json, stdout is one document, or empty after an error.
    """
    args = build_parser().parse_args(argv)
    verb: Verb = args.verb
    try:
        result = verb(args)
        code = int(args.failed(result))
        print_result(result, args)
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
        print(f"embedkit: {kind}: {format_error(error)} (a fault of ours; --traceback shows where)", file=sys.stderr)
        return 1


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
