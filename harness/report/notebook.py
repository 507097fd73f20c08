"""A result as an HTML fragment for notebooks: the findings and the table, from the code of the report."""

from __future__ import annotations

from harness.report import findings, html_tables
from harness.report.html import environment
from harness.report.summaries import Summaries
from harness.results.schema import Evaluation
from harness.results.vocabulary import HEADLINE


def fragment(result: Evaluation) -> str:
    """The finding of every pair, and the headline metric by layer and method."""
    summaries = Summaries(result)
    return (
        environment()
        .get_template("notebook.html")
        .render(
            result=result,
            findings=findings.findings(result, summaries),
            rows=html_tables.matrix(result, summaries, HEADLINE),
            paths=html_tables.paths(result),
            headline=HEADLINE,
        )
    )
