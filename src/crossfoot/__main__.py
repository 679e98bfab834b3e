"""`python -m crossfoot` is the `crossfoot` program, where its script is not on the path."""

import sys

INTERRUPTED = 130
"""128 and the number of SIGINT, as shells say it."""


def main() -> None:
    """What the `crossfoot` program runs. Who interrupts it while it is being loaded is shown no traceback either."""
    try:
        from crossfoot.cli import main as run
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
