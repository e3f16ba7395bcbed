"""The task instance in Airflow: its attempt, parameters, deadline, log and state."""
