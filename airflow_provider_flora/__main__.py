"""``python -m airflow_provider_flora``: the command line."""

# PYTHON_ARGCOMPLETE_OK: argcomplete looks for these words here before it asks the program for completions.
from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from airflow_provider_flora.cli.main import main

        code = main()
        sys.stdout = sys.stderr  # for what Airflow 2 logs at the end of the process
        sys.exit(code)
    except KeyboardInterrupt:  # before a command began
        sys.exit(130)
