"""`python -m pgn_edge`."""

from pgn_edge.cli import main

main()
