"""What a check asks for techniques, and those that were saved in a file. Imports nothing of Airflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ValidationError

from airflow_provider_flora.api.errors import FloraError, FloraParameterError
from airflow_provider_flora.api.models import Technique

SAVE = "python -m airflow_provider_flora techniques --json > {file}"


class Found(NamedTuple):
    """A technique.

    :param technique: as it is now, or as it was saved.
    :param on_own_origin: returns whether a media URL may be used although it is not ``https://``.
    """

    technique: Technique
    on_own_origin: Callable[[str], bool]


class ConnectionProblem(Exception):  # noqa: N818  # it is reported, once
    """A connection with which no technique can be looked up.

    :param error: why, in the provider's words.
    """

    def __init__(self, error: FloraError) -> None:
        self.error = error
        super().__init__(str(error))


class Catalogue(Protocol):
    """The techniques that tasks may name."""

    def find(self, technique_id: str, conn_id: str | None) -> Found | None:
        """Return a technique, or ``None`` if its connection is known at run time only.

        :param technique_id: id or slug.
        :param conn_id: the task's connection; ``None`` if it is known at run time only.
        :raises FloraError: there is no such technique, or the key does not see it.
        :raises ConnectionProblem: no technique can be looked up.
        """

    def connect(self, conn_id: str | None) -> Callable[[str], bool] | None:
        """Return whether a URL is on the own origin of a connection, or ``None`` if that is known at run time only.

        :param conn_id: as for :meth:`find`.
        :raises ConnectionProblem: the connection cannot be used.
        """


class SavedTechniques(BaseModel):
    """Techniques that were saved in a file.

    :param file: the file, as the user named it.
    :param techniques: what it has.
    """

    file: str
    techniques: Sequence[Technique]

    @classmethod
    def read(cls, file: str) -> SavedTechniques:
        """Read a file.

        :raises FloraParameterError: it is not what ``techniques --json`` prints.
        """
        advice = f"Save the techniques anew: {SAVE.format(file=file)}"
        try:
            entries = json.loads(Path(file).read_bytes())
        except OSError as error:
            raise FloraParameterError(f"{file!r} cannot be read: {error.strerror}. {advice}") from error
        except (ValueError, RecursionError) as error:
            raise FloraParameterError(f"{file!r} is not JSON: {error}. {advice}") from error
        if not isinstance(entries, list) or not entries:
            raise FloraParameterError(f"{file!r} is not a list of techniques. {advice}")
        techniques = []
        for number, entry in enumerate(entries, 1):
            try:
                techniques.append(Technique.model_validate(entry))
            except ValidationError:
                raise FloraParameterError(f"Entry {number} of {file!r} is not a technique. {advice}") from None
        return cls(file=file, techniques=techniques)

    def find(self, technique_id: str, conn_id: str | None) -> Found:
        """Return a technique, whatever the connection is.

        :raises FloraParameterError: the file has none of that name.
        """
        for technique in self.techniques:
            if technique_id in (technique.technique_id, technique.slug):
                return Found(technique, self.connect(conn_id))
        raise FloraParameterError(
            f"Technique {technique_id!r} is not in {self.file!r}. Check the id. If the technique is new, save the "
            f"techniques anew: {SAVE.format(file=self.file)}"
        )

    def connect(self, conn_id: str | None) -> Callable[[str], bool]:
        """Return that no URL is on a connection's own origin, whatever the connection is."""
        return lambda url: False
