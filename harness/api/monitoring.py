"""A night of the monitor: measure, keep, and write what people and dashboards look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.progress import shown
from harness.common.cpus import available_cpus
from harness.common.progress import Progress
from harness.common.storage import as_location

if TYPE_CHECKING:
    from harness.monitoring.history import History
    from harness.monitoring.run import Request


def monitor(
    model: Any,
    reference: Any,
    data: Any,
    state: Any = "monitor/state.json",
    *,
    prometheus: Any = None,
    progress: Progress | bool | None = None,
    **options: Any,
) -> History:
    """Measure new pictures, go on in `state`, and write its files; `History.exit_code` is 1 where there is an alarm.

    :param model: the deployed graph; reference: the result folder of its accepted evaluation.
    :param data: new pictures, a folder or a manifest; classes are not needed.
    :param state: the file that is kept between nights; `nights.jsonl`, `metrics.prom` and `trend.html` lie beside it.
    :param prometheus: another place for the metrics.
    :param options: other fields of `harness.monitoring.run.Request`.
    :raises InputError: another model, image rule, provider or reference than before, or bad input.
    :raises CannotEvaluateError: no provider, no readable picture, or a reference that is too small.
    """
    from harness.monitoring.run import Request

    options = {"threads": available_cpus(), **options}
    request = Request(Path(model), as_location(reference), as_location(data), Path(state), **options)
    return run_night(request, None if prometheus is None else Path(prometheus), progress)


def run_night(request: Request, prometheus: Path | None, progress: Progress | bool | None) -> History:
    """`monitor` for a request that is complete."""
    from harness.monitoring.outputs import write_outputs
    from harness.monitoring.run import monitor as measure_night

    with shown(progress) as show:
        found = measure_night(replace(request, progress=show))
    write_outputs(found, request.state.parent, prometheus)
    return found
