"""What a result shows, and what it is asked."""

from __future__ import annotations

import pytest

from airflow_provider_flora.testing import DagRunResult, TaskResult

LOG = """\
Traceback (most recent call last):
  File "flora.py", line 1, in execute
airflow_provider_flora.api.errors.FloraRunFailedError: Run run_1 failed with X
Task instance state updated
"""


def task(task_id: str, state: str | None, *, map_index: int = -1, attempts: int = 1, log: str = "") -> TaskResult:
    return TaskResult(task_id, map_index, state, attempts, {"return_value": [map_index]}, log)


def dag_run(*tasks: TaskResult) -> DagRunResult:
    return DagRunResult("shop", "manual__1", "failed", tasks, "", 0.25, 2)


FAILED = dag_run(
    task("picture", "failed", attempts=2, log=LOG),
    task("sell", "success", map_index=0, log="sold\n"),
    task("sell", "failed", map_index=1, log="one\n\ntwo\n\n"),
    task("show", "upstream_failed"),
    task("close", "skipped"),
    task("late", None),
)


def test_its_repr_is_one_line_that_names_what_went_wrong() -> None:
    assert repr(FAILED) == (
        "<shop failed: picture failed after 2 attempts, FloraRunFailedError: Run run_1 failed with X; "
        "sell[1] failed, two; show upstream_failed>"
    )
    assert repr(dag_run(task("sell", "success"))) == "<shop failed>"


def test_its_text_has_each_task_and_the_logs_of_those_that_failed() -> None:
    assert str(FAILED) == (
        "shop failed, charged 0.25 USD\n"
        "  picture: failed after 2 attempts, FloraRunFailedError: Run run_1 failed with X\n"
        "    | Traceback (most recent call last):\n"
        '    |   File "flora.py", line 1, in execute\n'
        "    | airflow_provider_flora.api.errors.FloraRunFailedError: Run run_1 failed with X\n"
        "    | Task instance state updated\n"
        "  sell[0]: success\n"
        "  sell[1]: failed, two\n"
        "    | one\n"
        "    | two\n"
        "  show: upstream_failed\n"
        "  close: skipped\n"
        "  late: not started"
    )


def test_a_task_that_did_not_fail_has_no_error() -> None:
    assert task("picture", "success", log=LOG).error is None
    assert task("picture", "up_for_retry", log=LOG).error == "FloraRunFailedError: Run run_1 failed with X"


def test_a_task_instance_and_its_xcom_are_found_by_their_names() -> None:
    assert FAILED.states["sell[1]"] == "failed"
    assert FAILED.task("sell", 1).log.startswith("one")
    assert FAILED.xcom("sell", map_index=1) == [1]
    assert FAILED.xcom("show") == [-1]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("sold",), r"shop has no task instance sold. It has: picture, sell\[0\], sell\[1\], show, close, late"),
        (("sell", "return_value", 2), r"shop has no task instance sell\[2\]"),
        (("sell", "cost", 1), r"sell\[1\] \(failed\) has no XCom 'cost'. It has: return_value."),
    ],
)
def test_a_wrong_name_gets_the_right_ones(wanted: tuple[str, str, int], message: str) -> None:
    with pytest.raises(LookupError, match=message):
        FAILED.xcom(*wanted)
