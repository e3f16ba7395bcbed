"""What is loaded once for all processes of `forks`. Imported by nothing but their server."""

from airflow_provider_flora.airflow_compat import make_dag_bag
from airflow_provider_flora.batch import batch  # noqa: F401
from airflow_provider_flora.checking import at_flora, check, checks  # noqa: F401
from airflow_provider_flora.operators import batch as operators  # noqa: F401
from tests.unit.batch import killed_life  # noqa: F401

make_dag_bag()
