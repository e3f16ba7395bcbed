# [START howto_test_dag]
from flora_quickstart import flora_quickstart


def test_one_run_is_paid(flora):
    dag_run = flora_quickstart().test(run_conf={"inputs": {"prompt": "A paper boat"}})
    assert dag_run.state == "success"
    [run] = flora.ledger()["runs"]
    assert run["inputs"] == [{"id": "prompt", "type": "text", "value": "A paper boat"}]
    assert run["charged"] == 0.09


def test_a_refused_prompt_fails_and_is_not_retried(flora):
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", error_message="Refused")
    dag_run = flora_quickstart().test()
    assert dag_run.state == "failed"
    ledger = flora.ledger()
    assert (ledger["started_runs"], ledger["charged_runs"]) == (1, 0)


# [END howto_test_dag]
