"""`python -m flows` is the command `lightgen`."""

from flows.cli import main

main()
