"""What the events of OpenLineage get of a task: its datasets and the facet ``flora_run``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import output_statistics_output_dataset, symlinks_dataset

from airflow_provider_flora.airflow_compat import OperatorLineage
from airflow_provider_flora.api.lenient import storable
from airflow_provider_flora.files.storage import as_uri
from airflow_provider_flora.lineage.datasets import DatasetName, name_of
from airflow_provider_flora.lineage.facet import FACET, PRODUCER, FloraRunFacet
from airflow_provider_flora.lineage.locations import MOST, locations_of
from airflow_provider_flora.runs.outcome import outcome_of

if TYPE_CHECKING:
    from airflow_provider_flora.runs.outcome import Outcome

LONGEST_TEXT = 200
"""Characters of a text in the facet: what Flora answered may have any length."""
_COUNTS = ("rows", "completed", "reused", "failed", "unknown", "skipped")


@dataclass(frozen=True)
class Data:
    """Something that a task has read or written.

    :param location: path, URI or URL.
    :param bytes: its size, if it is known.
    :param rows: number of its rows, if it is a manifest.
    :param alias: another name of the same data, and what kind of name that is.
    """

    location: str
    bytes: int | None = None
    rows: int | None = None
    alias: tuple[DatasetName | None, str] = (None, "")


def lineage_of(task: Any, mode: str) -> OperatorLineage[Any, Any]:
    """Return what OpenLineage gets of a task, before its work or after it.

    :param task: the operator, in the process that runs it. Its templates are rendered.
    :param mode: ``single``, ``batch``, ``wait``, ``download`` or ``upload``.
    """
    outcome = outcome_of(task)
    inputs, more_inputs = _name_all(_read(task, mode, outcome))
    outputs, more_outputs = _name_all(_written(mode, outcome))
    facets = {}
    if mode != "upload":
        facets[FACET] = _facet(task, mode, outcome)
        facets[FACET].inputsLeftOut = more_inputs + outcome.left_out[0]
        facets[FACET].outputsLeftOut = more_outputs + outcome.left_out[1]
    return OperatorLineage(
        inputs=[InputDataset(*name) for name in inputs],
        outputs=[_output(name, data) for name, data in outputs.items()],
        run_facets=facets,
    )


def _read(task: Any, mode: str, outcome: Outcome) -> Iterator[Data]:
    if mode == "single":
        yield from map(Data, locations_of(task.inputs))
    elif mode == "batch":
        yield from map(Data, _texts(as_uri(task.rows)))
        yield from map(Data, outcome.inputs)
    elif mode == "upload":
        yield from map(Data, _texts(as_uri(task.file)))
    elif mode == "download":
        yield from _at_flora(outcome)


def _written(mode: str, outcome: Outcome) -> Iterator[Data]:
    value = outcome.value or {}
    if mode == "batch":
        yield from (Data(uri, rows=value["rows"]) for uri in _texts(value.get("manifest")))
        yield from (Data(file["uri"], file.get("bytes")) for file in outcome.files)
    elif mode == "upload":
        flora = name_of(outcome.place or "")
        asset = flora and DatasetName(flora.namespace, str(value.get("asset_id")))
        yield from (
            Data(url, value["size_bytes"], alias=(asset, "FLORA_ASSET")) for url in _texts(value.get("url"))
        )
    elif outcome.files and outcome.run:
        for file, output in zip(outcome.files, outcome.run.outputs, strict=True):
            url = name_of(output.url) if output.url and output.type != "text" else None
            yield Data(file["uri"], file["bytes"], alias=(url, "FLORA_OUTPUT"))
    elif mode != "download":
        yield from _at_flora(outcome)


def _at_flora(outcome: Outcome) -> Iterator[Data]:
    outputs = outcome.run.outputs if outcome.run else ()
    return (Data(output.url) for output in outputs if output.url and output.type != "text")


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else []


def _name_all(found: Iterable[Data]) -> tuple[dict[DatasetName, Data], int]:
    """Return data by name, each once, and how many are left out: they are too many, or have no name."""
    named: dict[DatasetName, Data] = {}
    left_out = 0
    for data in found:
        name = name_of(data.location)
        if name is None or (len(named) == MOST and name not in named):
            left_out += 1
        else:
            named.setdefault(name, data)
    return named, left_out


def _output(name: DatasetName, data: Data) -> OutputDataset:
    dataset = OutputDataset(*name)
    alias, kind = data.alias
    if alias is not None:
        identifiers = [symlinks_dataset.Identifier(*alias, kind)]
        dataset.facets = {"symlinks": symlinks_dataset.SymlinksDatasetFacet(identifiers, producer=PRODUCER)}
    if data.bytes is not None or data.rows is not None:
        facet = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=data.rows, size=data.bytes, producer=PRODUCER
        )
        dataset.outputFacets = {"outputStatistics": facet}
    return dataset


def _facet(task: Any, mode: str, outcome: Outcome) -> FloraRunFacet:
    value, error = outcome.value, outcome.error
    run = outcome.run or getattr(error, "run", None)  # one that an earlier attempt has started may have failed
    facet = FloraRunFacet(mode=mode, techniqueId=_shorten(task.technique_id) or "", producer=PRODUCER)
    facet.techniqueName = _shorten(outcome.technique_name or (run and run.technique and run.technique.name))
    if mode != "batch":
        facet.runId = _shorten(run.run_id if run else (error and error.run_id) or getattr(task, "run_id", None))
        facet.status = _shorten(run and run.status)
    elif value is not None:
        facet.status = "failed" if error else "completed"
        facet.rows = {name: value[name] for name in _COUNTS}
        facet.chargedCost = value["charged_cost"]
    if mode == "single" and run is not None and run.completed:
        facet.chargedCost = run.charged_cost
    if error is not None:
        facet.errorKind, facet.errorCode = error.kind, _shorten(error.code)
        facet.remedy = error.remedy.value
    return facet


def _shorten(text: object) -> str | None:
    """Return a text in a form and of a length that every receiver accepts."""
    return None if text is None else storable(str(text))[:LONGEST_TEXT]
