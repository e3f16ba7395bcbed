# [START howto_test_dag]
def test_a_run_is_paid_once(run_dag, flora_emulator):
    result = run_dag("dags/flora_quickstart.py", conf={"inputs": {"prompt": "A paper boat"}})
    assert result.state == "success"
    assert result.charged == 0.09
    assert result.xcom("run_technique", "output_urls")[0].endswith("/still.png")
    [run] = flora_emulator.ledger()["runs"]
    assert run["inputs"] == [{"id": "prompt", "type": "text", "value": "A paper boat"}]


# [END howto_test_dag]
# [START howto_test_fault]
def test_a_refused_prompt_fails_and_is_not_retried(run_dag, flora_emulator):
    flora_emulator.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", error_message="Refused")
    result = run_dag("dags/flora_quickstart.py")
    assert result.states == {"run_technique": "failed", "show": "upstream_failed"}
    assert "GENERATION_PROMPT_MODERATED" in result.task("run_technique").error
    assert result.charged == 0


# [END howto_test_fault]
# [START howto_test_technique]
def test_my_technique(run_dag, flora_emulator):
    flora_emulator.add_technique(
        {
            "technique_id": "tech_poster",
            "slug": "my-poster",
            "name": "My Poster",
            "run_cost": 0.3,
            "inputs": [{"id": "headline", "name": "Headline", "type": "text"}],
            "outputs": [{"id": "poster", "name": "Poster", "type": "imageUrl"}],
        }
    )
    conf = {"technique_id": "my-poster", "inputs": {"headline": "Sale"}}
    assert run_dag("dags/flora_quickstart.py", conf=conf).charged == 0.3


# [END howto_test_technique]
