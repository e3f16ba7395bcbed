"""What a file costs on its way in and out, beside ``curl``: throughput of 1 GB, and the memory it takes.

``python -m benchmarks.files download``, ``... upload`` (to the emulator, which like a storage of today checks and
keeps what it is sent) or ``... discard`` (an upload to a server that throws it away). Each transfer is a process of
its own against a server of its own on this machine, ``curl`` and this provider in turns, each first every other
time. The provider's time is that of the whole step as a task takes it, checks, checksum and rename included; the
start of Python and its imports are not in it. curl's is that of sending the form, or of getting the file, alone.
What it takes together with ``openssl``, since the checksum is part of a download here, is reported too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.loopback import API_KEY, REPOSITORY, Emulator, Server, report

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient

T = TypeVar("T")
MEGABYTE = 1_000_000
LARGE, SMALL = 1000 * MEGABYTE, MEGABYTE
LARGE_FILE, SMALL_FILE = "large.mp4", "small.mp4"
ROUNDS = 7
WORKSPACE = "ws_emulator"
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # no disk is to be measured


def server_for(way: str, folder: Path) -> Server:
    """What gives the file, or takes it."""
    if way == "upload":
        return Emulator(1.0, "--asset-seconds", "0")  # processing the file takes no time
    return Server("benchmarks.bytes_server", str(folder))


def by_curl(way: str, server: Server, file: Path, folder: Path) -> float:
    """Transfer the file with curl; give the seconds that it took."""
    from airflow_provider_flora.api.operations import SIGNED_UPLOAD

    if way == "download":
        command = ["curl", "--output", str(folder / "by_curl.mp4"), f"{server.origin}/media/{file.name}"]
    else:
        with flora(server.origin) as client:
            target = client.create_asset(WORKSPACE, SIGNED_UPLOAD, file_name=file.name).upload
        assert target is not None
        command = ["curl", target.url]
        for name, value in target.form_fields.items():
            command += ["--form-string", f"{name}={value}"]
        command += ["--form", f"{target.file_field}=@{file}"]
    warm(folder)
    begun = time.perf_counter()
    subprocess.run([*command, "--silent", "--show-error", "--fail", "--noproxy", "*"], check=True, timeout=120)
    return time.perf_counter() - begun


def by_curl_and_openssl(way: str, server: Server, file: Path, folder: Path) -> float:
    """Get the file with curl and its checksum with openssl; give the seconds that both took."""
    seconds = by_curl(way, server, file, folder)
    begun = time.perf_counter()
    subprocess.run(
        ["openssl", "dgst", "-sha256", str(folder / "by_curl.mp4")], check=True, timeout=120, stdout=subprocess.PIPE
    )
    return seconds + time.perf_counter() - begun


def flora(origin: str) -> FloraClient:
    """A client of the server's."""
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.settings import ClientSettings

    return FloraClient(ClientSettings(api_key=API_KEY, base_url=f"{origin}/api/v1", timeout=30.0))


def here(way: str, server: Server, file: Path, folder: Path) -> dict[str, Any]:
    """Transfer the file with this provider, in a process of its own; give seconds and peak memory."""
    command = [sys.executable, "-m", "benchmarks.files", way, "--one", server.origin, str(file), str(folder)]
    ran = subprocess.run(command, check=True, timeout=300, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return measured


def transfer(way: str, origin: str, file: Path, folder: Path) -> dict[str, Any]:
    """Transfer a small file, which loads what there is to load, then this one, in this process."""
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.files.downloads.downloads import DEFAULT_FILE_NAME, Downloads
    from airflow_provider_flora.files.uploads.record import UploadRecord
    from airflow_provider_flora.files.uploads.uploader import Place, Uploader

    log = logging.getLogger("bench")
    with flora(origin) as client:
        for this in (file.with_name(SMALL_FILE), file):
            output = {"output_id": this.stem, "type": "videoUrl", "url": f"{origin}/media/{this.name}"}
            run = Run.model_validate({"run_id": "run_bench", "status": "completed", "outputs": [output]})
            warm(folder)
            begun = time.perf_counter()
            if way == "download":
                Downloads(str(folder), DEFAULT_FILE_NAME, log).download(run, "bench", client.settings)
            else:
                Uploader(client, UploadRecord(None, log), log).upload_or_import(str(this), Place(WORKSPACE))
            seconds = time.perf_counter() - begun
    return {"seconds": seconds, "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def warm(folder: Path) -> None:
    """Let the next file in a folder go to memory that was in use just now.

    A virtual machine gives free memory back to its host within seconds, and getting 1 GB of it again takes longer
    than the transfer.
    """
    write(folder / "warm", LARGE)
    (folder / "warm").unlink()


def write(file: Path, size: int) -> None:
    """Make a video of the given size, most of it in a part that players skip."""
    from airflow_provider_flora.emulator.media.videos import sample_clip

    start = sample_clip()
    with file.open("wb") as sink:
        sink.write(start + struct.pack(">I4s", size - len(start), b"free"))
        while rest := min(MEGABYTE, size - sink.tell()):
            sink.write(b"\x5a" * rest)


def measure(way: str) -> dict[str, Any]:
    """Measure one way, in turns with curl."""
    with tempfile.TemporaryDirectory(prefix="flora-bench-", dir=IN_MEMORY) as name:
        large, small, into = Path(name, LARGE_FILE), Path(name, SMALL_FILE), Path(name, "into")
        os.environ["TMPDIR"] = str(into)  # where the emulator stores uploads
        write(large, LARGE)
        write(small, SMALL)

        def one(transfer: Callable[[str, Server, Path, Path], T], file: Path) -> T:
            into.mkdir()
            with server_for(way, Path(name)) as server:
                result = transfer(way, server, file, into)
            shutil.rmtree(into)
            return result

        pairs = []
        for number in range(ROUNDS):
            if number % 2:
                curl, our = one(by_curl, large), one(here, large)
            else:
                our, curl = one(here, large), one(by_curl, large)
            pairs.append((curl, our))
        checked = [one(by_curl_and_openssl, large) for _ in range(3)] if way == "download" else []
        small_peak = statistics.median(one(here, small)["peak_kb"] for _ in range(3))
    speeds = [(LARGE / MEGABYTE / curl, LARGE / MEGABYTE / our["seconds"]) for curl, our in pairs]
    peak = statistics.median(our["peak_kb"] for _, our in pairs)
    return {
        "way": way,
        "curl_mb_per_s": round(statistics.median(curl for curl, _ in speeds)),
        "mb_per_s": round(statistics.median(our for _, our in speeds)),
        "of_curl": round(statistics.median(our / curl for curl, our in speeds), 2),
        "of_curl_least": round(min(our / curl for curl, our in speeds), 2),
        "rounds": ROUNDS,
        "curl_and_openssl_mb_per_s": round(LARGE / MEGABYTE / statistics.median(checked)) if checked else None,
        "more_memory_mb": round((peak - small_peak) / 1024, 1),
    }


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=["download", "upload", "discard"])
    parser.add_argument(
        "--one", nargs=3, metavar=("ORIGIN", "FILE", "FOLDER"), help="one transfer, in this process"
    )
    options = parser.parse_args()
    if options.one:
        origin, file, folder = options.one
        report(transfer(options.way, origin, Path(file), Path(folder)))
    else:
        report(measure(options.way))


if __name__ == "__main__":
    main()
