"""``@task.flora_technique``: a function that returns the inputs of a run becomes a task that runs a technique.

The task is a ``FloraRunTechniqueOperator`` that calls the function first. Whether a run is started is decided as
for every other task: the function only takes the place of ``inputs``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, ParamSpec, overload

from airflow_provider_flora.airflow_compat import DecoratedOperator, determine_kwargs, task_decorator_factory
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Context, ObjectStoragePath, Task
    from airflow_provider_flora.api.inputs import Inputs

ParametersT = ParamSpec("ParametersT")

NOT_YET_RETURNED = "returned by the function when the task runs"
"""What Airflow shows as the inputs until the function has returned them."""


class FloraTechniqueDecoratedOperator(DecoratedOperator, FloraRunTechniqueOperator):
    """The task of a function with ``@task.flora_technique``.

    The function is called in each attempt, and not again when a deferred task resumes. What it returns is not
    rendered as a template: it may hold texts of others.

    :param python_callable: the function.
    :param op_args: its positional arguments. (templated)
    :param op_kwargs: its other arguments. (templated)
    :param kwargs: the parameters of ``FloraRunTechniqueOperator`` but ``inputs``.
    :raises ValueError: ``multiple_outputs`` is set.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *FloraRunTechniqueOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **FloraRunTechniqueOperator.template_fields_renderers,
    }
    custom_operator_name = "@task.flora_technique"
    # So that Airflow and the task's page show the inputs. Without it they show what was there before the call.
    overwrite_rtif_after_execution = True

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Sequence[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("multiple_outputs"):
            raise ValueError(
                "@task.flora_technique takes no multiple_outputs: the parts of a run are XComs of their own "
                'already. Pass one on by its key, as in show(picture()["output_urls"])'
            )
        super().__init__(
            python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, inputs=NOT_YET_RETURNED, **kwargs
        )

    def execute(self, context: Context) -> Any:
        """Call the function, then run the technique with the inputs that it has returned."""
        # Without Airflow's own step in between, which looks for assets, and on 3.0 fails once the run is paid.
        return FloraRunTechniqueOperator.execute(self, context)

    def _get_inputs(self, context: Context) -> Inputs:
        returned = _as_inputs(self._call_function(context), self.python_callable.__name__)
        # Airflow cannot keep a ``Path`` for a task that defers, which is after its run is paid.
        return self._with_texts(returned)

    def execute_complete(self, context: Context, event: dict[str, Any], inputs: Any = None) -> Any:
        """Return the value of the finished run in the trigger's event.

        :param inputs: what the function returned before the task was deferred.
        """
        self.inputs = inputs
        return super().execute_complete(context, event)

    def defer(self, **given: Any) -> NoReturn:
        """Defer, and keep the inputs, since the function is not called when the task resumes."""
        super().defer(**given, kwargs={"inputs": self.inputs})

    def _call_function(self, context: Context) -> Any:
        # A copy: an argument may have the name of something in the context, for example `run_id`.
        known: Any = copy.copy(context)
        known.update(self.op_kwargs)
        return self.python_callable(*self.op_args, **determine_kwargs(self.python_callable, self.op_args, known))


def _as_inputs(returned: Any, function: str) -> Inputs:
    """Return what a function has returned as plain inputs. Their values are checked later, with the technique.

    :raises FloraParameterError: it is not of the form of inputs, or has an output of a task that it was not passed.
    """
    from airflow_provider_flora.airflow_compat import XComArg
    from airflow_provider_flora.api.errors import FloraParameterError
    from airflow_provider_flora.api.inputs import preview
    from airflow_provider_flora.api.models import RunInput

    if isinstance(returned, Mapping):
        inputs: Inputs = dict(returned)
        values = list(returned.values())
    elif isinstance(returned, Sequence) and not isinstance(returned, (str, bytes)):
        inputs = [entry.model_dump() if isinstance(entry, RunInput) else entry for entry in returned]
        values = [entry.get("value") if isinstance(entry, Mapping) else entry for entry in inputs]
    else:
        raise FloraParameterError(
            f"{function}() returned {preview(returned)}. Nothing was started now. A function with "
            "@task.flora_technique returns the inputs of a run: {input_id: value} or a list of {id, type, value}."
        )
    for value in values:
        if isinstance(value, XComArg):
            raise FloraParameterError(
                f"{function}() returned {preview(value)} as an input. Nothing was started now. The output of "
                "another task has no value inside the function: pass it to the function as an argument."
            )
    return inputs


@overload
def flora_technique(python_callable: Callable[ParametersT, Inputs]) -> Task[ParametersT, Inputs]: ...


@overload
def flora_technique(
    *,
    technique_id: str,
    flora_conn_id: str = ...,
    wait_for_completion: bool = ...,
    deferrable: bool = ...,
    poll_interval: float = ...,
    timeout: float = ...,
    callback_url: str | None = ...,
    validate_inputs: bool = ...,
    max_run_cost: float | None = ...,
    max_dag_run_cost: float | None = ...,
    on_budget: str = ...,
    returns: str = ...,
    on_unknown_start: str = ...,
    adopt_run_id: str | None = ...,
    download_to: str | ObjectStoragePath | None = ...,
    file_name: str = ...,
    **kwargs: Any,
) -> Callable[[Callable[ParametersT, Inputs]], Task[ParametersT, Inputs]]: ...


def flora_technique(python_callable: Any = None, **kwargs: Any) -> Any:
    """Turn a function that returns the inputs of a run into a task that runs a technique with them, once.

    Airflow knows it as ``@task.flora_technique``. Imported from here it is the same, and editors and type checkers
    know its parameters.

    :param technique_id: id or slug of the technique. (templated)
    :param kwargs: the other parameters of ``FloraRunTechniqueOperator`` but ``inputs``, and those of every Airflow
        task.
    """
    # Airflow would infer it from the function's annotations, but the task does not return what the function does.
    kwargs.setdefault("multiple_outputs", False)
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=FloraTechniqueDecoratedOperator, **kwargs
    )
