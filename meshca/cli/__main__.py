"""`python -m meshca.cli`: the command line without its script."""

from meshca.cli.app import main

main()
