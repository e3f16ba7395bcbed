"""The Flora emulator as a child process, for scripts that start it with Airflow."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import requests

from airflow_provider_flora.emulator.server import API_KEY
from scripts.local_airflow import LocalAirflowError, free_port, tail

__all__ = ["API_KEY", "EmulatorProcess"]


class EmulatorProcess:
    """`python -m airflow_provider_flora.emulator` on a free port; a context manager.

    :param log: file for its output.
    :param run_seconds: duration of a run in seconds.
    """

    def __init__(self, log: Path, *, run_seconds: float) -> None:
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.origin}/api/v1"
        self._log = log
        self._run_seconds = run_seconds

    def __enter__(self) -> EmulatorProcess:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "airflow_provider_flora.emulator"]
        command += ["--port", str(self.port), "--run-seconds", str(self._run_seconds)]
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the script, which then ends this process
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def _wait_until_ready(self, timeout: float = 60) -> None:
        ends = time.monotonic() + timeout
        with requests.Session() as session:
            session.trust_env = False
            while time.monotonic() < ends and self._process.poll() is None:
                try:
                    if session.get(f"{self.origin}/_emulator/ledger", timeout=2).ok:
                        return
                except requests.RequestException:
                    time.sleep(0.1)
        raise LocalAirflowError(f"The emulator did not start:\n{tail(self._log)}")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=5)
