"""`python -m tldeploy`."""

from tldeploy.cli import main

main()
