"""What an evaluation writes and how it is read again: schema of the result, plan, Parquet parts, pseudonyms."""

from typing import TYPE_CHECKING

from harness.common.lazy import on_demand

if TYPE_CHECKING:
    from harness.results.options import Options
    from harness.results.plan import Plan
    from harness.results.schema import Evaluation

__all__ = ["Evaluation", "Options", "Plan"]
__getattr__ = on_demand(__name__, {"Evaluation": "schema", "Options": "options", "Plan": "plan"})
