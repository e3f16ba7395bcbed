"""The pages in a real browser, as a person sees them: headless Chromium, in Airflow's own UI."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import pytest

from airflow_provider_flora.emulator import Emulator
from scripts.local_airflow import PASSWORD, USER, LocalAirflow
from tests.airflow.pages import attacks
from tests.airflow.pages.conftest import HOSTILE, of
from tests.airflow.pages.guests_auth_manager import SEEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import BrowserContext, Frame, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
WIDTHS = [400, 1280, 2560]
LOADED = "images => images.every(image => image.complete && image.naturalWidth > 0)"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is here: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def login(chromium: Chromium, airflow: LocalAirflow) -> Any:
    """What a browser keeps of a login through Airflow's form."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{airflow.url}/")
    page.get_by_label("Username").fill(USER)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "login" not in url)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def context(chromium: Chromium, login: Any) -> Iterator[BrowserContext]:
    context = chromium.new_context(storage_state=login, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture
def address(airflow: LocalAirflow, runs: Mapping[str, str]) -> Callable[..., str]:
    """The address of a page, outside of Airflow's frame."""

    def address(page: str, **query: Any) -> str:
        return f"{airflow.url}/flora/{page}?{urlencode(query)}"

    return address


def tab(page: Page, airflow: LocalAirflow, path: str) -> Frame:
    """Open a tab of Airflow's UI, and return the frame with Flora's page in it."""
    page.goto(f"{airflow.url}/{path}")
    frame = page.wait_for_selector("iframe").content_frame()
    assert frame is not None
    frame.wait_for_selector("h1")
    return frame


def task_tab(task_id: str, runs: Mapping[str, str], dag_id: str = SEEN) -> str:
    return f"dags/{dag_id}/runs/{quote(runs[dag_id])}/tasks/{task_id}/plugin/flora-outputs"


def wait_for_pictures(frame: Page | Frame, number: int) -> None:
    """Wait until that many pictures are there with their pixels."""
    frame.wait_for_load_state()
    for image in frame.locator("main img").all():
        image.scroll_into_view_if_needed()
    pictures = f"[...document.querySelectorAll('main img')].length === {number}"
    frame.wait_for_function(f"() => {pictures} && ({LOADED})([...document.querySelectorAll('main img')])")


# --- in Airflow's UI --------------------------------------------------------------------------------------


def test_a_task_shows_its_picture(page: Page, airflow: LocalAirflow, runs: Mapping[str, str]) -> None:
    frame = tab(page, airflow, task_tab("picture", runs))
    wait_for_pictures(frame, 1)
    assert frame.locator("img").get_attribute("src", timeout=5000).startswith("file?")
    assert frame.get_by_text("<script>alert(1)</script>").is_visible()  # its input
    assert frame.get_by_text("0.09 USD").first.is_visible()


def test_a_video_plays_and_can_be_sought(page: Page, airflow: LocalAirflow, runs: Mapping[str, str]) -> None:
    frame = tab(page, airflow, task_tab("clip", runs))
    video = frame.locator("video")
    video.evaluate("video => { video.muted = true; return video.play() }")
    frame.wait_for_function("() => document.querySelector('video').currentTime > 0")
    assert video.evaluate("video => video.videoWidth") > 0
    ends = video.evaluate("video => video.duration")
    seek = """(video, to) => new Promise(done => {
        video.onseeked = () => done(video.currentTime);
        video.currentTime = to;
    })"""
    assert video.evaluate(seek, ends / 2) == pytest.approx(ends / 2, abs=0.5)
    assert video.evaluate("video => video.error") is None


def test_a_recording_plays(page: Page, airflow: LocalAirflow, runs: Mapping[str, str]) -> None:
    frame = tab(page, airflow, task_tab("speech", runs))
    audio = frame.locator("audio")
    audio.evaluate("audio => audio.play()")
    frame.wait_for_function("() => document.querySelector('audio').currentTime > 0")


def test_a_person_watches_a_run(page: Page, airflow: LocalAirflow) -> None:
    with Emulator(run_seconds=600) as flora:
        connection = {"conn_type": "flora", "host": flora.base_url, "password": flora.api_key}
        airflow.api("POST", "/connections", body={"connection_id": "slow_flora", **connection})
        run_id = airflow.trigger("pages_slow")
        airflow.wait_for_task_state("pages_slow", run_id, "still", "deferred")
        flora._history._clock.skew = 300.0  # the run is halfway
        frame = tab(page, airflow, task_tab("still", {"pages_slow": run_id}, "pages_slow"))
        frame.wait_for_selector("text=/Run run_[0-9a-f]+ is running, [0-9]+ %/")
        flora._history._clock.skew = 900.0  # the run ends
        frame.wait_for_selector("main img", timeout=180_000)  # the page looks again by itself
        wait_for_pictures(frame, 1)


def test_a_failed_task_says_what_to_do(page: Page, airflow: LocalAirflow, runs: Mapping[str, str]) -> None:
    frame = tab(page, airflow, task_tab("refused", runs))
    assert frame.get_by_text("Remedy: change the input.").is_visible()


def test_a_dag_run_is_a_wall_of_outputs(page: Page, airflow: LocalAirflow, runs: Mapping[str, str]) -> None:
    frame = tab(page, airflow, f"dags/{SEEN}/runs/{quote(runs[SEEN])}/plugin/flora-run")
    wait_for_pictures(frame, 1 + 3 + 3)
    frame.get_by_role("link", name="each[1]").click()
    frame.wait_for_selector("h1:has-text('each')")
    frame.get_by_role("link", name="Index 2 →").click()
    frame.wait_for_selector("text=3 of 3")
    assert frame.get_by_text("a can").is_visible()


def test_the_spending_is_in_the_navigation(page: Page, airflow: LocalAirflow, runs: Mapping[str, str]) -> None:
    frame = tab(page, airflow, "plugin/flora")
    assert frame.get_by_role("row", name=f"{SEEN} 1.10 USD").is_visible()
    bar = frame.locator("svg.plot rect").first.bounding_box()
    assert bar is not None
    assert bar["height"] > 20


def test_the_pages_have_the_theme_of_airflow(
    context: BrowserContext, page: Page, airflow: LocalAirflow, runs: Mapping[str, str]
) -> None:
    back = "() => getComputedStyle(document.body).backgroundColor"
    shown = {}
    for theme in ("light", "dark"):
        page.goto(airflow.url)
        page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
        shown[theme] = tab(page, airflow, task_tab("picture", runs)).evaluate(back)
    assert shown == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 29, 45)"}


# --- a manifest of 10,000 rows ----------------------------------------------------------------------------


def test_a_person_pages_through_ten_thousand_rows(
    page: Page, address: Callable[..., str], runs: Mapping[str, str]
) -> None:
    page.goto(address("outputs", **of("large", runs, HOSTILE)))
    assert page.locator("ul.rows > li").count() == 60
    assert page.get_by_text("10,000 of 10,000 rows").is_visible()
    page.get_by_role("link", name="Next →").first.click()
    page.wait_for_selector("text=sku-00060")
    wait_for_pictures(page, 59)  # one row of each hundred has failed
    page.get_by_label("Status").select_option("failed")
    page.get_by_role("button", name="Show").click()
    page.wait_for_selector("text=100 of 10,000 rows")
    page.get_by_role("searchbox", name="Row").fill("sku-0410")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=1 of 10,000 rows")
    assert page.locator("ul.rows h3").inner_text() == "sku-04107 failed"


def test_the_keyboard_is_enough(page: Page, address: Callable[..., str], runs: Mapping[str, str]) -> None:
    page.goto(address("outputs", **of("large", runs, HOSTILE)))
    seen = []
    for _ in range(5):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("() => document.activeElement.name || document.activeElement.textContent"))
        # A person sees where the focus is.
        assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert seen == ["All Flora tasks of this DAG run", "status", "search", "Show", "Next →"]
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Page 2 of 167")


def test_a_text_is_copied(page: Page, address: Callable[..., str], runs: Mapping[str, str]) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(address("outputs", **of("attacks", runs, HOSTILE)))
    # The word is there for two seconds.
    page.evaluate("""() => {
        const button = document.querySelector("button[data-copy]");
        new MutationObserver(() => { window.saidSo ||= button.textContent.includes("Copied"); })
            .observe(button, {subtree: true, childList: true, characterData: true});
    }""")
    page.locator("button[data-copy]").first.press("Enter")
    page.wait_for_function("() => window.saidSo")
    assert page.evaluate("() => navigator.clipboard.readText()") == attacks.SCRIPT


# --- everybody --------------------------------------------------------------------------------------------

PAGES = [
    ("outputs", "picture"),
    ("outputs", "clip"),
    ("outputs", "table"),
    ("outputs", "refused"),
    ("outputs", "large"),
    ("outputs", "attacks"),
    ("outputs", "nothing"),
    ("run", ""),
    ("spending", ""),
]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("name", "task_id"), PAGES)
def test_everybody_can_use_a_page_on_any_screen(
    context: BrowserContext,
    address: Callable[..., str],
    runs: Mapping[str, str],
    name: str,
    task_id: str,
    theme: Any,
) -> None:
    if not AXE.exists():
        pytest.skip(f"axe-core is not here: make {AXE.parents[1].relative_to(Path.cwd())}/.ready")
    context.add_init_script(path=AXE)
    page = context.new_page()
    page.emulate_media(color_scheme=theme)
    dag_id = HOSTILE if task_id in ("large", "attacks") else SEEN
    query = (
        {}
        if name == "spending"
        else of(task_id, runs, dag_id)
        if task_id
        else {"dag_id": SEEN, "run_id": runs[SEEN]}
    )
    page.goto(address(name, **query))
    found = page.evaluate("levels => axe.run({runOnly: levels})", LEVELS)
    assert len(found["passes"]) > 5
    assert [
        f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes']][:3]}" for one in found["violations"]
    ] == []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


# --- attacks ----------------------------------------------------------------------------------------------


class Victim:
    """A browser of a person who is logged in, and what it was made to do."""

    def __init__(self, context: BrowserContext) -> None:
        self.done: list[str] = []
        self.page = context.new_page()
        context.on("request", lambda request: self._note_attack(request.url))
        context.on("dialog", lambda dialog: (self._note(dialog.message), dialog.dismiss()))
        context.on("page", lambda page: self._note(f"a window: {page.url}"))
        context.on("download", lambda download: download.cancel())

    def _note(self, what: str) -> None:
        self.done.append(what)

    def _note_attack(self, url: str) -> None:
        if urlsplit(url).path == "/attacked":
            self._note(url)

    def look(self, url: str) -> None:
        """Open an address, and wait until what it has could have run. A file to save is not opened."""
        from playwright.sync_api import Error

        try:
            self.page.goto(url, wait_until="load")
        except Error as error:
            if "Download is starting" not in error.message:
                raise
        self.page.wait_for_timeout(300)


@pytest.fixture
def victim(context: BrowserContext) -> Victim:
    return Victim(context)


def test_an_attack_that_works_is_seen(victim: Victim, address: Callable[..., str]) -> None:
    victim.look(address("spending").partition("/flora/")[0])
    with victim.page.expect_request("**/attacked"):
        victim.page.evaluate("html => document.write(html)", attacks.IMAGE)
    assert len(victim.done) == 1


@pytest.mark.parametrize(("name", "task_id"), [("outputs", "attacks"), ("outputs", "large"), ("run", "")])
def test_nothing_hostile_runs_in_a_page(
    victim: Victim, address: Callable[..., str], runs: Mapping[str, str], name: str, task_id: str
) -> None:
    assert attacks.NUMBER >= 20
    dag_run = {"dag_id": HOSTILE, "run_id": runs[HOSTILE]}
    more = {"search": "onerror"} if task_id == "large" else {}
    victim.look(address(name, **dag_run, **({"task_id": task_id} if task_id else {}), **more))
    assert victim.page.locator("figure").count() >= attacks.NUMBER
    assert victim.page.locator("[href^='javascript' i], [src^='javascript' i], [onerror], [onload]").count() == 0
    for link in victim.page.locator("main a, main button, main summary").all():
        href = link.get_attribute("href") or ""
        assert not href.startswith(("data:", "blob:", "vbscript:", "file:", "//"))
    for button in victim.page.locator("main button[data-copy]").all():
        button.click()
    victim.page.wait_for_timeout(300)
    assert victim.done == []


@pytest.mark.parametrize("number", range(len(attacks.FILES)))
def test_nothing_hostile_runs_in_a_file(
    victim: Victim, address: Callable[..., str], runs: Mapping[str, str], number: int
) -> None:
    index = len(attacks.TEXTS) + len(attacks.URLS) + number
    victim.look(address("file", **of("attacks", runs, HOSTILE), index=index))
    assert victim.done == []


def test_nothing_hostile_runs_in_airflows_own_tab(
    victim: Victim, airflow: LocalAirflow, runs: Mapping[str, str]
) -> None:
    frame = tab(victim.page, airflow, task_tab("attacks", runs, HOSTILE))
    assert frame.locator("figure").count() == attacks.NUMBER
    victim.page.wait_for_timeout(500)
    assert victim.done == []


# --- choosing ---------------------------------------------------------------------------------------------


def _ask(page: Page, airflow: LocalAirflow) -> str:
    run_id = airflow.trigger("flora_choose")
    airflow.question("flora_choose", run_id, "choose")
    page.goto(f"{airflow.url}/dags/flora_choose/runs/{quote(run_id)}/tasks/choose/required_actions")
    page.wait_for_function(
        "() => [...document.querySelectorAll('img')].filter(image => image.naturalWidth > 0).length >= 3"
    )
    return run_id


def _answer(page: Page, option: str) -> None:
    """Answer with an option's button, or on Airflow 3.1, which has none for so many, with the list."""
    respond = page.get_by_role("button", name="Respond")
    if respond.is_visible():
        page.get_by_role("combobox").last.fill(option)
        page.keyboard.press("Enter")
        respond.click()
    else:
        page.get_by_role("button", name=option).click()


def test_a_person_chooses_a_picture(page: Page, airflow: LocalAirflow) -> None:
    run_id = _ask(page, airflow)
    _answer(page, "overcast")
    assert airflow.wait_for_dag_run("flora_choose", run_id, 240) == "success"
    value = airflow.xcom("flora_choose", run_id, "choose")
    assert [output["label"] for output in value["chosen"]] == ["overcast"]
    photo = json.dumps(airflow.xcom("flora_choose", run_id, "video"))
    assert "product-motion" in photo


def test_a_person_rejects_all_pictures_with_a_note(page: Page, airflow: LocalAirflow) -> None:
    run_id = _ask(page, airflow)
    page.locator("textarea").fill("all too dark")
    _answer(page, "Reject all")
    assert airflow.wait_for_dag_run("flora_choose", run_id, 240) == "success"
    states = {ti.task_id: ti.state for ti in airflow.task_instances("flora_choose", run_id)}
    assert states["video"] == "skipped"
