"""Takes the pictures of the documentation: `make screenshots` writes them into docs/_static/ui.

Starts Airflow with the emulator, runs the examples, and opens the pages in the system's Chromium as a user sees
them: logged in, inside Airflow's own UI. Nobody has to answer anything, and everything ends by itself.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scripts import example_runs
from scripts.airflow_with_emulator import PLACE, QUESTION_PAGE, SPENDING_PAGE
from scripts.emulator_process import EmulatorProcess
from scripts.local_airflow import LocalAirflow, LocalAirflowError, NotYetError

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "_static" / "ui"
BUCKET = "shop"
WIDTH = 1440
TOP = 60
"""Height of Airflow's own line on top of a page with tabs, in pixels."""
MARGIN = 4
MOST_BYTES = 200_000
RUN_SECONDS = 2
TABLE = "flora_pipeline_refresh"
NIGHTLY = "flora_content_refresh"


@dataclass(frozen=True)
class Shot:
    """A picture of a page.

    :param page: its path in Airflow's UI. `{DAG_ID}` stands for the id of that DAG's first run.
    :param shows: the CSS selector of what must be there: in the frame, if the page is one of Flora's.
    :param height: of the browser's window in pixels.
    :param whole: show the whole window. Else what is left of Flora's page, and Airflow's line on top, are cut off.
    :param scroll_to: the CSS selector of what is scrolled into the window.
    """

    name: str
    page: str
    shows: str
    height: int
    whole: bool = False
    scroll_to: str | None = None
    theme: str = "light"


NIGHTLY_RUN = f"/dags/{NIGHTLY}/runs/{{{NIGHTLY}}}"
STORYBOARD_RUN = f"/dags/flora_pipeline_storyboard/runs/{example_runs.RUN_ID}"
SHOTS = (
    Shot("overview", f"{NIGHTLY_RUN}/plugin/flora-run", ".tile img", 860, whole=True),
    Shot("dark", f"{NIGHTLY_RUN}/plugin/flora-run", ".tile img", 860, theme="dark"),
    Shot("task", f"{NIGHTLY_RUN}/tasks/relight/mapped/0/plugin/flora-outputs", "figure img", 960),
    Shot("video", f"{STORYBOARD_RUN}/tasks/video/mapped/0/plugin/flora-outputs", "video", 960),
    Shot("run", f"{STORYBOARD_RUN}/plugin/flora-run", ".tile img", 1300),
    Shot("batch", f"/dags/{TABLE}/runs/{{{TABLE}}}/tasks/relight/plugin/flora-outputs", ".rows img", 1000),
    Shot("choose", QUESTION_PAGE, "img[alt^=Output]", 1000, whole=True, scroll_to="text=Reject all"),
)
SPENDING = Shot("spending", SPENDING_PAGE, ".plot rect", 900, whole=True)


def main() -> int:
    """Take all pictures."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print(
            "Chromium is not here. The pictures are taken with the one of the system. On Debian and Ubuntu:\n\n"
            "  apt-get install chromium",
            file=sys.stderr,
        )
        return 1
    home = PLACE / "screenshots"
    shutil.rmtree(home, ignore_errors=True)
    try:
        with (
            EmulatorProcess(home / "emulator.log", run_seconds=RUN_SECONDS) as emulator,
            s3() as (client, endpoint),
        ):
            for name, table in example_runs.tables(emulator).items():
                client.put_object(Bucket=BUCKET, Key=name, Body=table)
            # A bucket, not a folder: pictures must not show the paths of the machine they were taken on.
            aws = {"conn_type": "aws", "login": "me", "password": "secret", "extra": {"endpoint_url": endpoint}}
            env = {"AIRFLOW_CONN_AWS_DEFAULT": json.dumps(aws), "AWS_DEFAULT_REGION": "us-east-1"}
            with example_runs.airflow_with_examples(home, emulator, f"s3://aws_default@{BUCKET}", env) as airflow:
                take_all(airflow, emulator, chromium)
    except (LocalAirflowError, NotYetError, PictureError) as error:
        print(f"\n{error}\n\nAll logs: {home}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    return 0


class PictureError(Exception):
    """A picture that cannot be taken, or is not fit for the documentation."""


@contextmanager
def s3() -> Iterator[tuple[Any, str]]:
    """An S3 on this machine with an empty bucket: a client of it, and its address."""
    import boto3
    from botocore.config import Config
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it prints each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"aws_access_key_id": "me", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        client: Any = boto3.client("s3", endpoint_url=endpoint, config=Config(proxies={}), **keys)
        client.create_bucket(Bucket=BUCKET)
        yield client, endpoint
    finally:
        server.stop()


def take_all(airflow: LocalAirflow, emulator: EmulatorProcess, chromium: str) -> None:
    """Run the examples and take the pictures of their pages."""
    for line in example_runs.run_all(airflow, emulator):
        print(f"  {line}", flush=True)
    states = example_runs.read_states(airflow)
    failed = [dag_id for dag_id in example_runs.DAG_IDS if states.get(dag_id) not in ("success", example_runs.ASKS)]
    if failed:
        raise PictureError(f"These examples have no run to show: {', '.join(failed)}")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with browser(airflow, chromium) as context:
        for shot in SHOTS:
            take(context, airflow, shot)
        # A second night, of which the table needs nothing new, and days for the chart.
        second = airflow.trigger(TABLE, run_id="second-night")
        airflow.wait_for_dag_run(TABLE, second, 240)
        spread_over_days(airflow.home / "airflow.db")
        take(context, airflow, SPENDING)


@contextmanager
def browser(airflow: LocalAirflow, chromium: str) -> Iterator[Any]:
    """A browser with a user of Airflow who is logged in."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox does not start as root, as which a container often runs. The pages are this machine's own.
        arguments = ["--no-sandbox", "--no-proxy-server"]
        with closing(playwright.chromium.launch(executable_path=chromium, args=arguments)) as program:
            context = program.new_context(locale="en-US", timezone_id="UTC", reduced_motion="reduce")
            context.add_cookies([{"name": "_token", "value": airflow.token(), "url": airflow.url}])
            yield context


def take(context: Any, airflow: LocalAirflow, shot: Shot) -> None:
    """Take one picture and write it."""
    page = context.new_page()
    try:
        page.set_viewport_size({"width": WIDTH, "height": shot.height})
        page.emulate_media(color_scheme=shot.theme)
        page.add_init_script(f"localStorage.setItem('theme', '{shot.theme}')")
        page.goto(airflow.url + shot.page.format_map(FirstRuns(airflow)), timeout=60_000)
        content = page.frame_locator("iframe") if "/plugin/" in shot.page else page
        content.locator(shot.shows).first.wait_for(timeout=60_000)
        left = 0 if shot.whole else page.locator("iframe").bounding_box()["x"] - MARGIN
        wait_for_media(page)
        # A picture that has come moves what is below it, and the next picture into the window.
        for _ in range(4 if shot.scroll_to else 0):
            content.locator(shot.scroll_to).last.scroll_into_view_if_needed(timeout=10_000)
            page.wait_for_timeout(500)
            wait_for_media(page)
        page.wait_for_timeout(1500)  # Airflow's tabs move into their places
        top = 0 if shot.whole else TOP
        clip = {"x": left, "y": top, "width": WIDTH - left, "height": shot.height - top}
        picture = page.screenshot(clip=clip, animations="disabled")
    finally:
        page.close()
    write(shot.name, picture)


def wait_for_media(page: Any) -> None:
    """Wait until each picture and video down to the lower edge of the window is there."""
    for frame in page.frames:
        frame.wait_for_function(_ALL_MEDIA_ARE_THERE, timeout=60_000)


_ALL_MEDIA_ARE_THERE = """() => {
    const seen = (one) => one.checkVisibility() && one.getBoundingClientRect().top < innerHeight;
    return [...document.querySelectorAll("img")].filter(seen).every((one) => one.complete && one.naturalWidth)
        && [...document.querySelectorAll("video")].filter(seen).every((one) => one.readyState > 1);
}"""


class FirstRuns(dict[str, str]):
    """The id of each DAG's first run, as a part of an address."""

    def __init__(self, airflow: LocalAirflow) -> None:
        runs = airflow.api("GET", "/dags/~/dagRuns", params={"limit": 100, "order_by": "-id"})["dag_runs"]
        super().__init__({run["dag_id"]: quote(run["dag_run_id"], safe=":+") for run in runs})


def spread_over_days(database: Path) -> None:
    """Move runs into the past, so that a page about a month has more than one day."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        runs = connection.execute(
            "SELECT dag_id, run_id FROM dag_run WHERE state = 'success' ORDER BY id"
        ).fetchall()
        for place, (dag_id, run_id) in enumerate(runs):
            days = f"-{(place * 5 + 2) % 27} days"
            for column in ("start_date", "end_date"):
                connection.execute(
                    f"UPDATE task_instance SET {column} = strftime('%Y-%m-%d %H:%M:%f', {column}, ?)"
                    " WHERE dag_id = ? AND run_id = ?",
                    (days, dag_id, run_id),
                )


def write(name: str, picture: bytes) -> None:
    """Write a picture, with 256 colours if it is large."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        full = image.convert("RGB")
    for version in (full, with_few_colours(full)):
        file = io.BytesIO()
        version.save(file, "PNG", optimize=True)
        if len(file.getvalue()) <= MOST_BYTES:
            break
    else:
        raise PictureError(f"{name}.png has more than {MOST_BYTES // 1000} kB: show less on it")
    (PICTURES / f"{name}.png").write_bytes(file.getvalue())
    print(f"  docs/_static/ui/{name}.png: {len(file.getvalue()) // 1000} kB", flush=True)


def with_few_colours(image: Any) -> Any:
    """Return the picture with 256 colours. Gradients are dithered; what is white stays white."""
    from PIL import Image

    palette = image.quantize(256, kmeans=2)
    colours = palette.getpalette()
    for first in range(0, len(colours), 3):
        if min(colours[first : first + 3]) >= 248:
            colours[first : first + 3] = [255, 255, 255]
    palette.putpalette(colours)
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


if __name__ == "__main__":
    sys.exit(main())
