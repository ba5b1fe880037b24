"""`python -m embre.launch` is the `embre` command."""

from embre.launch.cli import main

main()
