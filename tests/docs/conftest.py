"""The tests that the docs show need an Airflow of their own: test_docs_examples.py runs them in another process."""

collect_ignore = ["own_dags"]
