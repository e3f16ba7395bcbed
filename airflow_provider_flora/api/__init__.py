"""The Flora API. Imports nothing from Airflow, and works without it."""
