"""What the faults make of a run that starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from airflow_provider_flora.emulator.faults.orders import Fault
from airflow_provider_flora.emulator.state.runs import SetOutput

RunPlan = dict[str, Any]
"""Keyword arguments of ``History.start``, and ``key_after``: seconds until the idempotency key is known."""


def plan_run(faults: Sequence[Fault]) -> RunPlan:
    """Plan the run that these faults meet.

    :param faults: the faults, first come first.
    """
    plan: RunPlan = {}
    for fault in faults:
        words = fault.words
        if fault.kind == "slow_start" and words["run"] == "first":
            plan["key_after"] = words["seconds"]
        elif fault.kind == "stall_run":
            plan["seconds"] = math.inf
        elif fault.kind == "slow_run":
            plan["seconds"] = words["seconds"]
        elif fault.kind == "end_run":
            plan["end_status"] = words["status"]
        elif fault.kind == "set_output":
            plan["set_outputs"] = (*plan.get("set_outputs", ()), SetOutput(**words))
        elif fault.kind == "large_output":
            plan["output_bytes"] = words["bytes"]
        elif fault.kind == "fail_run":
            plan["failure"] = (words["error_code"], words["error_message"])
    return plan
