"""`embedkit` and `python -m embedkit`."""

import sys


def main() -> int:
    from embedkit.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
