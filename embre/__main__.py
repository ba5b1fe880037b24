"""`python -m embre` is the `embre` command."""

from embre.cli.app import main

main()
