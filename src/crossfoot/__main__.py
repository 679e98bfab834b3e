"""`python -m crossfoot` is the `crossfoot` program, where its script is not on the path."""

from crossfoot.cli import main

main()
