"""The plugin as pytest loads it: cheap, and silent until a fixture is asked for."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

pytest_plugins = ["pytester"]

PLUGIN = "airflow_provider_flora.testing.plugin"
# Whether or not this Airflow's environment has the package installed, and with it the entry point.
WITH_PLUGIN = ("-p", "no:flora", "-p", PLUGIN, "-p", "no:cacheprovider")


def test_loading_it_imports_nothing_that_takes_time() -> None:
    program = f"""
import sys
import pytest
before = set(sys.modules)
import {PLUGIN}
for name in ("airflow", "aiohttp", "requests", "pydantic", "PIL", "sqlite3", "airflow_provider_flora.emulator"):
    assert name in before or name not in sys.modules, name
ours = {{name for name in sys.modules if name.startswith("airflow_provider_flora")}}
assert ours == {{"airflow_provider_flora", "airflow_provider_flora.version", "airflow_provider_flora.testing",
                 "{PLUGIN}"}}, ours
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


def test_pytest_finds_it_by_the_entry_point() -> None:
    found = {entry.value for entry in entry_points(group="pytest11") if entry.name == "flora"}
    assert found <= {PLUGIN}  # nothing where only the sources are


def test_each_test_has_an_emulator_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        keys = []

        @pytest.mark.parametrize("number", [1, 2])
        def test_a_fault_is_only_this_tests(flora_emulator, number):
            keys.append(os.environ["FLORA_API_KEY"])
            assert flora_emulator.ledger()["faults"] == []
            flora_emulator.order_fault("outage", seconds=9)

        def test_nothing_is_left():
            assert len(set(keys)) == 2
            assert "FLORA_API_KEY" not in os.environ
        """
    )
    pytester.runpytest_inprocess(*WITH_PLUGIN).assert_outcomes(passed=3)


def test_without_it_there_are_no_fixtures_and_nothing_breaks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("name", ["flora_emulator", "run_dag"])
        def test_no_fixture(request, name):
            with pytest.raises(pytest.FixtureLookupError):
                request.getfixturevalue(name)
        """
    )
    pytester.runpytest_subprocess("-p", "no:flora").assert_outcomes(passed=2)


def test_its_fixtures_are_listed_with_what_they_do(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_inprocess(*WITH_PLUGIN, "--fixtures").stdout.str()
    for words in ("A local Flora for this test", 'run_dag("dags/my_dag.py", conf={...})'):
        assert words in listed
    assert "_flora_airflow" not in listed
