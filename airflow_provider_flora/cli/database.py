"""Airflow's metadata database, for commands that run where Airflow's own command line runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_flora.api.errors import FloraParameterError, FloraSettingsError
from airflow_provider_flora.cli.connection import KEY, open_client

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.cli.command import Options
    from airflow_provider_flora.cli.terminal import Terminal
    from airflow_provider_flora.metadata.reading import Task, TaskView


@contextmanager
def open_database() -> Iterator[Session]:
    """Open the metadata database. What was changed is committed at the end.

    :raises FloraSettingsError: there is none, or it has no tables.
    """
    from sqlalchemy.exc import DBAPIError

    from airflow_provider_flora import airflow_compat

    try:
        with airflow_compat.create_session() as session:
            yield session
    except DBAPIError as error:
        raise FloraSettingsError(
            "Airflow's metadata database cannot be used here: "
            f"{error.orig}. Run this command where `airflow dags list` works."
        ) from error


def add_task(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a task instance."""
    parser.add_argument("dag_id", metavar="DAG", help="id of the DAG")
    parser.add_argument("dag_run", metavar="RUN", help="id of the DAG run, such as manual__2026-11-01T06:00:00")
    parser.add_argument("task_id", metavar="TASK", help="id of the task")
    parser.add_argument(
        "--map-index", type=int, default=-1, metavar="N", help="which instance of a mapped task (default: none)"
    )


def read_named_task(session: Session, options: Options) -> TaskView:
    """Return the task instance that the arguments name.

    :raises FloraParameterError: Airflow does not have it, or it is not Flora's.
    """
    from airflow_provider_flora.metadata.reading import Task, read_task
    from airflow_provider_flora.metadata.records import describe

    task = Task(options.dag_id, options.dag_run, options.task_id, options.map_index)
    view = read_task(session, task)
    if view is None:
        raise FloraParameterError(f"Airflow has no {describe(task)}.{_other_indexes(session, task)}")
    if not view.is_flora:
        raise FloraParameterError(f"The {describe(task)} is not Flora's: it is a {view.operator}.")
    return view


def _other_indexes(session: Session, task: Task) -> str:
    """Return a hint if the task is mapped, or is not."""
    from sqlalchemy import select

    from airflow_provider_flora.airflow_compat import TaskInstance

    found = session.scalars(
        select(TaskInstance.map_index)
        .where(
            TaskInstance.dag_id == task.dag_id,
            TaskInstance.run_id == task.run_id,
            TaskInstance.task_id == task.task_id,
        )
        .order_by(TaskInstance.map_index)
    ).all()
    if not found:
        return ""
    return f" It is mapped: --map-index {found[0]} to {found[-1]}." if found[-1] >= 0 else " It is not mapped."


def open_client_here(conn_id: str | None, options: Options, terminal: Terminal) -> FloraClient:
    """Return a client for the connection that the arguments or the environment name, or else for another one.

    Connections in the database are among them.

    :param conn_id: that other one, if there is one.
    :raises FloraSettingsError: there is no connection, or it cannot be used.
    """
    from airflow_provider_flora.airflow_compat import connections_of_the_database

    named = options.conn_id or (None if os.environ.get(KEY, "").strip() else conn_id)
    with connections_of_the_database():
        return open_client(argparse.Namespace(conn_id=named), terminal)


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add ``--yes``."""
    parser.add_argument("--yes", action="store_true", help="do not ask")
