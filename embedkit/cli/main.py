"""The command line: parse, call, print. What a verb needs is imported only when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from embedkit import __version__
from embedkit.cli._common import Verb, _one_line, _print
from embedkit.cli.features import _cache, _extract
from embedkit.cli.models import _evaluate, _predict, _serve, _stitch_export
from embedkit.cli.studies import _audit, _study
from embedkit.cli.workspaces import _bench, _corpora, _demo, _init
from embedkit.errors import EmbedkitError


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
