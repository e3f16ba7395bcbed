"""The emulator with more techniques than it has: ``python -m benchmarks.many_techniques COUNT [its options]``."""

from __future__ import annotations

import sys
from dataclasses import replace

from airflow_provider_flora.emulator.__main__ import main
from airflow_provider_flora.emulator.state import catalogue


def add_techniques(count: int) -> None:
    """Add techniques ``tech_bench-0`` and so on, all like one of the emulator's own."""
    [like] = [technique for technique in catalogue.TECHNIQUES if technique.slug == "editorial-still"]
    catalogue.TECHNIQUES += tuple(
        replace(like, slug=f"bench-{number}", technique_id=f"tech_bench-{number}") for number in range(count)
    )


if __name__ == "__main__":
    add_techniques(int(sys.argv.pop(1)))
    main()
