"""``python -m runstream``."""

from runstream.cli import main

main()
