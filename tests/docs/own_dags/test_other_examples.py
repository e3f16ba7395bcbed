from airflow_provider_flora.batch import read_manifest


def test_the_callback_reports_a_start_that_was_refused(run_dag, flora_emulator):
    flora_emulator.order_fault("status", status=402, code="insufficient_credits", operation="startTechniqueRun")
    result = run_dag("dags/flora_alert.py")
    assert result.state == "failed"
    words = "Flora is out of credits, top up the workspace (api_credits, insufficient_credits, run None)"
    assert result.log.count(words) == 1


def test_the_callback_reports_a_run_that_failed_after_the_deferral(run_dag, flora_emulator):
    flora_emulator.order_fault("slow_run", seconds=6)  # longer than the first poll
    flora_emulator.order_fault("fail_run", error_code="BILLING_NOT_ENOUGH_CREDITS")
    result = run_dag("dags/flora_alert.py")
    assert result.state == "failed"
    [run] = flora_emulator.ledger()["runs"]
    words = f"top up the workspace (run_credits, BILLING_NOT_ENOUGH_CREDITS, run {run['run_id']})"
    assert result.log.count(words) == 1
    assert result.log.count("running trigger in line") == 1


def test_a_late_charge_is_waited_for(run_dag, flora_emulator):
    flora_emulator.cost_lag = 12  # the operator itself waits for 5 s
    result = run_dag("dags/flora_late_charge.py")
    assert result.state == "success"
    assert result.xcom("picture")["charged_cost"] is None
    assert result.xcom("charge") == 0.09


def test_a_refresh_needs_no_logical_date_and_pays_once(run_dag, flora_emulator, tmp_path):
    photo = f"{flora_emulator.origin}/media/samples/lamp.png"
    (tmp_path / "products.csv").write_text(f"product,photo,light\nlamp,{photo},dusk\n")
    conf = {"storage": tmp_path.as_uri()}
    for charged in (1, 0):
        result = run_dag("dags/flora_pipeline_refresh.py", conf=conf, logical_date=None)
        assert (result.state, result.charged_runs) == ("success", charged)
    assert [path.name for path in tmp_path.rglob("relit/files/*")] == ["lamp-image.png"]


def test_a_campaign_needs_no_logical_date(run_dag, tmp_path):
    (tmp_path / "briefs.csv").write_text("campaign,brief\nspring,A tea shop\n")
    conf = {"storage": tmp_path.as_uri()}
    assert run_dag("dags/flora_pipeline_campaign.py", conf=conf, logical_date=None).state == "success"
    [taglines] = read_manifest(tmp_path / "campaign" / "taglines.jsonl")
    [poster] = read_manifest(tmp_path / "campaign" / "posters.jsonl")
    assert taglines["output_texts"][0] in poster["inputs"]["prompt"]
    assert poster["files"][0]["uri"].endswith("/campaign/posters/spring.png")
