"""What Airflow's metadata database has of Flora's tasks, read and written from outside a task."""
