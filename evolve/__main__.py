"""Where the `evolve` command begins: one thread for linear algebra, then the command line.

The engine's matrices are small and its cores belong to the evaluations; threads would make it slower, and its rounding
depend on the machine. The variables only count if they are set before numpy is imported.
"""

import os
import sys


def main() -> None:
    """Run the command line."""
    for library in ("OPENBLAS", "MKL", "OMP"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    try:
        from evolve.cli import main as commands

        commands()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
