"""The pages of a list. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from airflow_provider_flora.api.errors import FloraAnswerError, FloraAnswerSizeError
from airflow_provider_flora.api.exchange import Request, Response
from airflow_provider_flora.api.models import Meta

ItemT = TypeVar("ItemT", covariant=True)


class Page(Protocol[ItemT]):
    """A page of any list."""

    @property
    def meta(self) -> Meta:
        """The link to the next page."""

    @property
    def items(self) -> Sequence[ItemT]:
        """The items of the page."""


class Pages(Generic[ItemT]):
    """All pages of a list. Send ``request`` until it is ``None``, and pass each answer to ``read``."""

    def __init__(
        self,
        operation: str,
        path: str,
        model: Callable[[Response], Page[ItemT]],
        query: Mapping[str, Any],
        page_size: int,
        *,
        in_workspace: bool = True,
    ) -> None:
        if not 1 <= page_size <= 100:
            raise ValueError(f"page_size takes 1 to 100 (Flora's limits), not {page_size!r}")
        self._model = model
        self._seen: set[str] = set()
        present = {name: str(value) for name, value in query.items() if value is not None}
        self.request: Request | None = Request(
            operation, "GET", path, {**present, "limit": str(page_size)}, in_workspace=in_workspace
        )

    @property
    def page_size(self) -> int:
        """The largest number of items on the next page."""
        return 0 if self.request is None else int(self.request.query["limit"])

    def resize(self, page_size: int) -> None:
        """Change the size of the next page."""
        if self.request is not None and page_size != self.page_size:
            self.request = replace(self.request, query={**self.request.query, "limit": str(page_size)})

    def halve(self, error: FloraAnswerSizeError) -> None:
        """Halve the size of the next page.

        :raises FloraAnswerSizeError: this error, if a single item is too large.
        """
        if self.page_size <= 1:
            raise error
        self.resize(self.page_size // 2)

    def read(self, response: Response) -> Sequence[ItemT]:
        """Read one page and advance to the next.

        :raises FloraAnswerError: Flora linked to an earlier page, so the list would never end.
        """
        assert self.request is not None  # noqa: S101
        page = self._model(response)
        cursor = page.meta.next_cursor
        if not cursor:
            self.request = None
        elif cursor in self._seen:
            raise FloraAnswerError(
                f"Flora's list {self.request.path} links back to its page {cursor!r} and would never end.",
                request_id=response.request_id,
                transient=False,
            )
        else:
            self._seen.add(cursor)
            self.request = replace(self.request, query={**self.request.query, "cursor": cursor})
        return page.items
