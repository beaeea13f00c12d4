"""`python -m worker.cli` is `evergrant`, wherever the script of that name is."""

from worker.cli import main

main()
