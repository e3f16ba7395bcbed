import json

from flora_alert import flora_alert
from flora_late_charge import flora_late_charge
from flora_pipeline_campaign import flora_pipeline_campaign
from flora_pipeline_refresh import flora_pipeline_refresh

from airflow_provider_flora.batch import read_manifest
from airflow_provider_flora.emulator import Emulator


def test_the_callback_reports_a_start_that_was_refused(flora, capfd):
    flora.order_fault("status", status=402, code="insufficient_credits", operation="startTechniqueRun")
    assert flora_alert().test().state == "failed"
    words = "Flora is out of credits, top up the workspace (api, insufficient_credits, run None)"
    assert capfd.readouterr().out.count(words) == 1


def test_the_callback_reports_a_run_that_failed_after_the_deferral(flora, capfd):
    flora.order_fault("slow_run", seconds=7)  # longer than the first poll
    flora.order_fault("fail_run", error_code="BILLING_NOT_ENOUGH_CREDITS")
    assert flora_alert().test().state == "failed"
    [run] = flora.ledger()["runs"]
    words = f"top up the workspace (run_failed, BILLING_NOT_ENOUGH_CREDITS, run {run['run_id']})"
    assert capfd.readouterr().out.count(words) == 1


def test_a_late_charge_is_waited_for(monkeypatch):
    dag = flora_late_charge()
    dag.get_task("charge").poke_interval = 1
    with Emulator(run_seconds=1, cost_lag=9) as emulator:  # the operator itself waits for 5 s
        connection = {"conn_type": "flora", "host": emulator.base_url, "password": emulator.api_key}
        monkeypatch.setenv("AIRFLOW_CONN_FLORA_DEFAULT", json.dumps(connection))
        dag_run = dag.test()
    assert dag_run.state == "success"
    ti = dag_run.get_task_instance("charge")
    assert ti.xcom_pull(task_ids="picture", key="return_value")["charged_cost"] is None
    assert ti.xcom_pull(task_ids="charge", key="return_value") == 0.09


def test_a_refresh_needs_no_logical_date_and_pays_once(flora, tmp_path):
    photo = f"{flora.origin}/media/samples/lamp.png"
    (tmp_path / "products.csv").write_text(f"product,photo,light\nlamp,{photo},dusk\n")
    for _ in range(2):
        dag_run = flora_pipeline_refresh().test(logical_date=None, run_conf={"storage": tmp_path.as_uri()})
        assert (dag_run.state, dag_run.logical_date) == ("success", None)
    assert [path.name for path in tmp_path.rglob("relit/files/*")] == ["lamp-image.png"]
    assert flora.ledger()["charged_runs"] == 1


def test_a_campaign_needs_no_logical_date(flora, tmp_path):
    (tmp_path / "briefs.csv").write_text("campaign,brief\nspring,A tea shop\n")
    dag_run = flora_pipeline_campaign().test(logical_date=None, run_conf={"storage": tmp_path.as_uri()})
    assert (dag_run.state, dag_run.logical_date) == ("success", None)
    [taglines] = read_manifest(tmp_path / "campaign" / "taglines.jsonl")
    [poster] = read_manifest(tmp_path / "campaign" / "posters.jsonl")
    assert taglines["output_texts"][0] in poster["inputs"]["prompt"]
    assert poster["files"][0]["uri"].endswith("/campaign/posters/spring.png")
