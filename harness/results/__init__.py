"""What an evaluation writes and how it is read again: schema of the result, plan, Parquet parts, pseudonyms."""

from typing import TYPE_CHECKING

from harness.common.lazy import on_demand

if TYPE_CHECKING:
    from harness.results.plan import Options, Plan
    from harness.results.schema import Evaluation

__all__ = ["Evaluation", "Options", "Plan"]
__getattr__ = on_demand(__name__, {"Evaluation": "schema", "Options": "plan", "Plan": "plan"})
