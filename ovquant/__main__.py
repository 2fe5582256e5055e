"""``python -m ovquant``."""

from ovquant.cli import main

main()
