"""`pgn-edge`, and `python -m pgn_edge`."""

from __future__ import annotations

import sys

from pgn_edge.errors import MissingExtraError


def main() -> None:
    """Run the command line, or say in one sentence that click or rich is missing."""
    try:
        import rich  # noqa: F401  # tables and progress bars: better missed now than after the work is done

        from pgn_edge.cli import main as run
    except ModuleNotFoundError as exc:
        if exc.name not in {"click", "rich"}:
            raise
        sys.exit(f"pgn-edge: {MissingExtraError(exc.name, 'cli')}")
    run()


if __name__ == "__main__":
    main()
