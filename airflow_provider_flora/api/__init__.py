"""The Flora API. Imports nothing of Airflow; usable and testable without it."""
