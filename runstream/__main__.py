"""``python -m runstream``."""

from runstream.commands.main import main

main()
