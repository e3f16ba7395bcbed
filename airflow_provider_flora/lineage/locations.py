"""Where what a task reads and writes is: the files and URLs among inputs, and those of a batch's rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_flora.files.storage import is_uri, path_of
from airflow_provider_flora.files.uploads.run_inputs import possible_files, possible_media, with_texts
from airflow_provider_flora.lineage.datasets import is_web_url

if TYPE_CHECKING:
    from airflow_provider_flora.runs.outcome import Outcome

MOST = 1000
"""Number of input datasets in an event, and of output datasets. Some receivers refuse events of more than 1 MB."""
ItemT = TypeVar("ItemT")


def locations_of(inputs: Any) -> Iterator[str]:
    """Iterate over the files and URLs among a run's inputs. A text is neither, unless it is nothing but a URL.

    The types of the inputs are not known here, so a path on this machine counts if there is a file.

    :param inputs: a task's inputs in either form, rendered.
    """
    plain = with_texts(inputs)
    yield from filter(is_web_url, possible_media(plain))
    yield from (name for name in possible_files(plain) if is_uri(name) or _is_file(name))


def _is_file(name: str) -> bool:
    with suppress(OSError, ValueError, RuntimeError):  # no user of that name, a loop of links, a NUL
        path = path_of(name)
        return isinstance(path, Path) and path.is_file()
    return False


def remember_batch(
    outcome: Outcome, value: Mapping[str, Any], technique_name: str, lines: Iterable[Mapping[str, Any]]
) -> None:
    """Add to a task's outcome what a batch has read and written, without its rows.

    Rows that were reused have read and written nothing.

    :param value: the batch's value.
    :param lines: the lines of its manifest.
    """
    outcome.value, outcome.technique_name = value, technique_name
    ran = [line for line in lines if line.get("run_id") and not line.get("reused")]
    outcome.inputs, more_inputs = _first(dict.fromkeys(name for line in ran for name in _inputs_of(line)))
    outcome.files, more_files = _first(file for line in ran for file in _files_of(line))
    outcome.left_out = (more_inputs, more_files)


def _inputs_of(line: Mapping[str, Any]) -> Iterator[str]:
    yield from filter(is_web_url, possible_media(line.get("inputs")))
    yield from line.get("input_files") or ()


def _files_of(line: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if line.get("status") != "completed":
        return ()
    return line.get("files") or [{"uri": url} for url in line.get("output_urls") or ()]


def _first(items: Iterable[ItemT]) -> tuple[list[ItemT], int]:
    """Return the first items, and how many there are beyond them."""
    rest = iter(items)
    return list(islice(rest, MOST)), sum(1 for _ in rest)
