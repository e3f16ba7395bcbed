"""``python -m airflow_provider_flora.emulator``: the emulator on the command line."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence

from airflow_provider_flora.emulator.connection import Connection
from airflow_provider_flora.emulator.operations.idempotency import WINDOWS
from airflow_provider_flora.emulator.operations.media import SAMPLES
from airflow_provider_flora.emulator.operations.runs import PAGES
from airflow_provider_flora.emulator.server import API_KEY, WEBHOOK_SECRET, Emulator
from airflow_provider_flora.emulator.state.catalogue import TECHNIQUES, Technique

DEFAULT_PORT = 8765
HIGHEST_PORT = 65535


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted.

    :param arguments: the command line without the program.
    :return: the exit code.
    """
    options = _make_parser().parse_args(arguments)
    emulator = Emulator(**vars(options))
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        emulator.start()
    except ModuleNotFoundError as missing:
        print(missing, file=sys.stderr)
        return 1
    except OSError as error:
        print(_explain(error, options.host, options.port), file=sys.stderr)
        return 1
    print(_greeting(emulator), flush=True)
    stopping.wait()
    emulator.stop()
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_flora.emulator",
        description="A local Flora to develop DAGs against without paying.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on")
    add("--port", type=_port, default=DEFAULT_PORT, help="the port to listen on; 0 takes a free one")
    add("--run-seconds", type=float, default=8.0, help="how long a run takes; with 0 it ends at once")
    add("--upload-port", type=_port, default=0, help="the port of the storage host; 0 takes a free one")
    add("--asset-seconds", type=float, default=0.5, help="how long a completed upload is processed")
    add("--upload-seconds", type=float, default=900.0, help="how long a reservation for an upload lasts")
    add("--seed", type=int, default=0, help="decides what varies: durations and pictures")
    add("--api-key", default=API_KEY, help="the valid API key")
    add("--idempotency", choices=list(WINDOWS), default="docs", help="what a repeated idempotency key does")
    add("--idempotency-window", type=float, metavar="SECONDS", help="how long a key is kept")
    add("--rate-limit", type=float, metavar="N_PER_SECOND", help="requests a second; more get 429")
    add("--list-lag", type=float, default=0.0, metavar="SECONDS", help="how late lists are")
    add("--pages", choices=PAGES, default="stable", help="how history is cut into pages")
    add(
        "--cost-lag",
        type=float,
        default=1.5,
        metavar="SECONDS",
        help="how long after its end a charge is unknown",
    )
    add("--clock-skew", type=float, default=0.0, metavar="SECONDS", help="how far the clock is ahead")
    add("--allow-loopback-callbacks", action="store_true", help="accept callback URLs on this machine")
    add(
        "--webhook-secret",
        default=WEBHOOK_SECRET,
        metavar="whsec_...",
        help="secret of the webhook signatures",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 0 to {HIGHEST_PORT}")
    return int(text)


def _greeting(emulator: Emulator) -> str:
    connection = Connection(emulator.base_url, emulator.api_key)
    width = max(len(technique.slug) for technique in TECHNIQUES)
    return "\n".join(
        [
            f"Flora's emulator is at {emulator.base_url}",
            f"API key: {emulator.api_key}",
            "",
            "The connection for Airflow, in either form:",
            f"  export {connection.variable}='{connection.uri}'",
            f"  export {connection.variable}='{connection.json}'",
            "",
            "Techniques (a star marks an optional input):",
            *(_describe(technique, width) for technique in TECHNIQUES),
            "",
            "Samples to run them with:",
            *(f"  {emulator.origin}/media/samples/{name}" for name in SAMPLES),
            "",
            f"What happened so far: {emulator.origin}/_emulator/ledger",
            "Stop it with Ctrl+C.",
        ]
    )


def _describe(technique: Technique, width: int) -> str:
    inputs = ", ".join(f"{slot.id}{'*' * slot.optional} ({slot.type})" for slot in technique.inputs)
    return f"  {technique.slug:{width}}  ${technique.run_cost:.2f}  {technique.name}: {inputs}"


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is taken: choose another with --port, or a free one with --port 0."
    return f"Cannot listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}"


if __name__ == "__main__":
    sys.exit(main())
