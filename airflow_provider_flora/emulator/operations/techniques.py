"""Flora's operations on workspaces and techniques."""

from __future__ import annotations

from html import escape

from aiohttp import web

from airflow_provider_flora.emulator.http.answers import answer_json
from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.http.pages import read_cursor, read_limit, write_cursor
from airflow_provider_flora.emulator.operations.scope import is_own_workspace
from airflow_provider_flora.emulator.state.catalogue import Catalogue, Technique
from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.workspace import WORKSPACE_ID


class TechniqueOperations:
    """The operations on workspaces and techniques.

    :param clock: the emulator's time.
    :param catalogue: the techniques.
    """

    def __init__(self, clock: Clock, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._created_at = int(clock.now())

    async def list_workspaces(self, request: web.Request) -> web.StreamResponse:
        """``GET /workspaces``."""
        workspace = {
            "workspace_id": WORKSPACE_ID,
            "name": "Emulator",
            "role": "owner",
            "created_at": self._created_at,
        }
        return answer_json({"workspaces": [workspace]})

    async def list_techniques(self, request: web.Request) -> web.StreamResponse:
        """``GET /techniques``."""
        query, limit = request.query, read_limit(request)
        after = read_cursor("techniques", query["cursor"]) if "cursor" in query else ""
        words, here = query.get("query", "").lower(), is_own_workspace(query.get("workspace_id"))
        found = [
            technique
            for technique in self._catalogue.all()
            if technique.technique_id > after
            and words in f"{technique.name} {technique.description}".lower()
            and here
        ]
        page = found[:limit]
        more = write_cursor("techniques", page[-1].technique_id) if len(found) > limit else None
        return answer_json(
            {
                "techniques": [technique.as_json() for technique in page],
                "meta": {"next_cursor": more},
            }
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """``GET /techniques/{techniqueId}``."""
        return answer_json(find_technique(self._catalogue, request).as_json())

    async def show(self, request: web.Request) -> web.StreamResponse:
        """A technique's page in Flora's app, to which links lead: ``/techniques/{slug}`` on the origin."""
        return web.Response(text=_as_page(find_technique(self._catalogue, request)), content_type="text/html")


def _as_page(technique: Technique) -> str:
    lists = ""
    for title, slots in (("Inputs", technique.inputs), ("Outputs", technique.outputs)):
        items = (f"<li>{escape(slot.name)} ({escape(slot.type)})</li>" for slot in slots)
        lists += f"<h2>{title}</h2><ul>{''.join(items)}</ul>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(technique.name)}</title>'
        f"<h1>{escape(technique.name)}</h1><p>{escape(technique.description)}</p>"
        f"<p>{technique.run_cost:g} USD a run. This is the emulator, not Flora.</p>{lists}</html>"
    )


def find_technique(catalogue: Catalogue, request: web.Request) -> Technique:
    """The technique that a request's path names.

    :param catalogue: the techniques.
    :param request: the request.
    :raises ApiError: 404 when there is none.
    """
    technique = catalogue.find(request.match_info["technique"])
    if technique is None:
        raise ApiError(404)
    return technique
