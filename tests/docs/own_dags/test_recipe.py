# [START howto_test_recipe]
def test_tonight_costs_what_it_should(run_dag):
    result = run_dag("dags/flora_content_refresh.py")
    assert result.state == "success"
    assert result.charged == 0.72


# [END howto_test_recipe]
