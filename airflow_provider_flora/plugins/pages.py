"""The requests to the pages: who may see what, and the headers of each answer.

    GET /flora/outputs    a task instance: its outputs, or a part of its manifest; HTML, or JSON
    GET /flora/run        a DAG run: all its Flora tasks; HTML, or JSON
    GET /flora/spending   the last 30 days of all DAGs that the user may read; HTML
    GET /flora/file       the file of an output
    GET /flora/static/    style and script, which anybody may read

Each request but the last asks Airflow whether the user may read XComs and task instances of that DAG. Pages are
made in threads, as Airflow makes its own: nothing here holds up the API server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as AnyHTTPException

from airflow_provider_flora.airflow_compat import (
    DagAccessEntity,
    TaskInstance,
    XComModel,
    create_session,
    get_user,
    requires_access_dag,
)
from airflow_provider_flora.api.errors import FloraRunCreditsError, FloraRunFailedError
from airflow_provider_flora.metadata.reading import (
    UNFINISHED,
    RunView,
    Task,
    TaskView,
    as_number,
    as_text,
    instance_query,
    is_floras,
    read_neighbours,
    read_run,
    read_task,
    read_values,
    read_views,
)
from airflow_provider_flora.plugins import rendering
from airflow_provider_flora.plugins.live import LiveRuns
from airflow_provider_flora.plugins.manifests import PAGE_ROWS, Manifests
from airflow_provider_flora.plugins.spending import SHOWN, dags_with_runs, read_spending
from airflow_provider_flora.plugins.streaming import send_file
from airflow_provider_flora.runs.outcome import BATCH_KEY, ERROR_KEY, RUN_COST_KEY

_RUN_FAILED = (FloraRunFailedError.kind, FloraRunCreditsError.kind)
ENTITIES = (DagAccessEntity.XCOM, DagAccessEntity.TASK_INSTANCE)
MAY_READ = [Depends(requires_access_dag("GET", entity)) for entity in ENTITIES]
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept, Cookie, Authorization",
}
_NOT_KEPT = {"Cache-Control": "private, no-store"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src {media}; media-src {media}; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'; "
    "sandbox allow-scripts allow-same-origin allow-forms allow-downloads allow-popups"
)
_TITLES = {401: "You are not logged in", 403: "You may not see this", 404: "There is nothing here"}
MANIFESTS = Manifests()
LIVE = LiveRuns()

_LAST_INDEX = 2**31 - 1  # a larger one is no INTEGER of a database

Name = Annotated[str, Query(max_length=1000)]
MapIndex = Annotated[str, Query(max_length=20)]
Number = Annotated[int, Query(ge=1, le=1_000_000)]
User = Annotated[Any, Depends(get_user)]


def build() -> FastAPI:
    """Return the application of all pages."""
    app = FastAPI(title="Flora", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(AnyHTTPException, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.get("/outputs", dependencies=MAY_READ)(show_outputs)
    app.get("/run", dependencies=MAY_READ)(show_run)
    app.get("/file", dependencies=MAY_READ)(show_file)
    app.get("/spending")(show_spending)
    app.mount("/static", StaticFiles(directory=rendering.HERE / "static"))
    return app


def show_outputs(
    request: Request,
    dag_id: Name,
    run_id: Name,
    task_id: Name,
    map_index: MapIndex = "-1",
    status: Name = "",
    search: Name = "",
    page: Number = 1,
) -> Response:
    """Show a task instance."""
    with create_session() as session:
        view = _read_task(session, Task(dag_id, run_id, task_id, _as_index(map_index)))
        neighbours = read_neighbours(session, view.task)
    if view.is_unfinished and not view.progress:
        view = replace(view, progress=LIVE.progress(view))
    batch = (
        MANIFESTS.page(view.manifest, status=status, search=search, number=page)
        if view.manifest is not None
        else None
    )
    if _wants_json(request):
        return _json(rendering.task_as_json(view, neighbours, batch))
    rows = [(row, read_run(row.value)) for row in batch.rows] if batch else []
    return _html(
        "outputs.html",
        own_origins=[view.own_origin],
        view=view,
        neighbours=neighbours,
        batch=batch,
        rows=rows,
        status=status,
        search=search,
        file_query=rendering.file_query,
    )


def show_run(request: Request, dag_id: Name, run_id: Name, page: Number = 1) -> Response:
    """Show the Flora tasks of a DAG run."""
    with create_session() as session:
        mine = (TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, is_floras())
        instances = session.execute(
            instance_query().where(*mine).order_by(TaskInstance.task_id, TaskInstance.map_index)
        ).all()
        if not instances and " " in run_id:  # see read_task
            return show_run(request, dag_id, run_id.replace(" ", "+"), page)
        totals = _total(session, instances)
        first = (page - 1) * PAGE_ROWS
        views = read_views(session, instances[first : first + PAGE_ROWS])
    totals |= {"page": page, "pages": max(1, -(-len(instances) // PAGE_ROWS))}
    if _wants_json(request):
        return _json(rendering.run_as_json(dag_id, run_id, views, totals))
    return _html(
        "run.html",
        own_origins=[view.own_origin for view in views],
        views=views,
        samples={view.task: _sample(view) for view in views if view.manifest},
        totals=totals,
        dag_id=dag_id,
        run_id=run_id,
        file_query=rendering.file_query,
    )


def show_spending(request: Request, user: User) -> Response:
    """Show the last days."""
    now = datetime.now(timezone.utc)
    with create_session() as session:
        readable = [dag_id for dag_id in dags_with_runs(session) if _may_read(request, user, dag_id)]
        found = read_spending(session, readable, now)
    dags, techniques = (
        rendering.bars(dict(Counter(amounts).most_common(SHOWN))) for amounts in (found.by_dag, found.by_technique)
    )
    return _html(
        "spending.html",
        found=found,
        days=rendering.bars(found.by_day),
        dags=dags,
        techniques=techniques,
        now=now,
        shown=PAGE_ROWS,
    )


def show_file(
    request: Request,
    dag_id: Name,
    run_id: Name,
    task_id: Name,
    index: Annotated[int, Query(ge=0, le=1_000_000)],
    map_index: MapIndex = "-1",
    row_id: Annotated[str | None, Query(max_length=10_000)] = None,
) -> Response:
    """Send the file of an output: of a task's run, or of a row of its batch."""
    with create_session() as session:
        view = _read_task(session, Task(dag_id, run_id, task_id, _as_index(map_index)))
    run: RunView | None = view.run
    if row_id is not None:
        row = MANIFESTS.find(view.manifest, row_id) if view.manifest is not None else None
        run = read_run(row.value) if row else None
    outputs = run.outputs if run else ()
    file = outputs[index].file if index < len(outputs) else None
    if file is None:
        raise HTTPException(404, "The task has no such file.")
    answer = send_file(file, {name.lower(): value for name, value in request.headers.items()})
    answer.headers.update({name: value for name, value in HEADERS.items() if name != "Vary"})
    return answer


def _read_task(session: Any, task: Task) -> TaskView:
    view = read_task(session, task)
    if view is None:
        raise HTTPException(404, "Airflow has no such task instance.")
    return view


def _as_index(map_index: str) -> int:
    """Return the index of a mapped task, or -1. Airflow leaves the placeholder if a task is not mapped."""
    try:
        return min(max(-1, int(map_index)), _LAST_INDEX)
    except ValueError:
        return -1


def _may_read(request: Request, user: Any, dag_id: str) -> bool:
    try:
        for entity in ENTITIES:
            requires_access_dag("GET", entity, dag_id)(request, user)
    except HTTPException:
        return False
    return True


def _total(session: Any, instances: Any) -> dict[str, Any]:
    """Return the states, the cost so far, and the cost of active runs as far as it is known, of a whole DAG run."""
    states = Counter(row.state or "no status" for row in instances)
    keys = ("charged_cost", "run_id", RUN_COST_KEY, BATCH_KEY, ERROR_KEY)
    costs = read_values(session, XComModel, instances[0], keys) if instances else {}
    charged, in_flight, seen = 0.0, 0.0, set()
    for row in instances:
        of = costs.get((row.task_id, row.map_index), {})
        run_id = as_text(of.get("run_id"))
        batch = of.get(BATCH_KEY)
        cost = as_number(batch.get("charged_cost") if isinstance(batch, dict) else of.get("charged_cost"))
        if cost is not None and (run_id is None or run_id not in seen):
            seen.add(run_id)
            charged += cost
        elif cost is None and run_id is not None and row.state in UNFINISHED and not _has_failed(of):
            in_flight += as_number(of.get(RUN_COST_KEY)) or 0.0
    return {
        "count": len(instances),
        "states": dict(states),
        "charged_cost": round(charged, 6),
        "in_flight_cost": round(in_flight, 6),
    }


def _has_failed(of: Mapping[str, Any]) -> bool:
    """Whether Flora's run has failed, and the task waits for its next try. After other errors the run goes on."""
    error = of.get(ERROR_KEY)
    return isinstance(error, dict) and error.get("kind") in _RUN_FAILED


def _sample(view: TaskView) -> list[tuple[str, RunView]]:
    """Return the first rows of a batch that have outputs."""
    found = MANIFESTS.page(str(view.manifest), status="completed")
    return [(row.row_id, read_run(row.value)) for row in found.rows[:12]]


def _wants_json(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


def _html(template: str, *, own_origins: Iterable[str | None] = (), code: int = 200, **values: Any) -> HTMLResponse:
    policy = _POLICY.format(media=" ".join(["'self'", "https:", *sorted({*filter(None, own_origins)})]))
    headers = {**HEADERS, **_NOT_KEPT, "Content-Security-Policy": policy}
    return HTMLResponse(rendering.page(template, **values), code, headers)


def _json(value: Mapping[str, Any], code: int = 200) -> Response:
    return Response(rendering.json_bytes(value), code, {**HEADERS, **_NOT_KEPT}, "application/json")


def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)  # noqa: S101  it is registered for those
    return _answer(request, error.status_code, str(error.detail))


def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  it is registered for those
    wrong = ", ".join(str(entry["loc"][-1]) for entry in error.errors())
    return _answer(request, 422, f"The address of this page lacks a value, or has a wrong one: {wrong}.")


def _answer(request: Request, code: int, detail: str) -> Response:
    if _wants_json(request):
        return _json({"detail": detail}, code)
    return _html("message.html", code=code, title=_TITLES.get(code, "This did not work"), detail=detail)
