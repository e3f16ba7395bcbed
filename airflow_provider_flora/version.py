"""The version of this package, and how its HTTP requests name it."""

__version__ = "0.1.0"
USER_AGENT = f"airflow-provider-flora/{__version__}"
