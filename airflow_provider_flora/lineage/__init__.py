"""What a task says of itself in the events of OpenLineage: the datasets it has read and written, and its run.

Airflow's provider for OpenLineage asks the operator, in the process that has run it. Nothing here sends a request,
reads a storage, or is imported before it asks.
"""
