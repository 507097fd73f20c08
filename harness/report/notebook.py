"""A result as an HTML fragment for notebooks: the verdict and the table, from the code of the report."""

from __future__ import annotations

from harness.report import findings, html_tables
from harness.report.cells import Cells
from harness.report.html import environment
from harness.results.schema import Evaluation
from harness.results.vocabulary import HEADLINE


def fragment(result: Evaluation) -> str:
    """The verdict of every pair, and the headline metric by layer and method."""
    cells = Cells(result)
    return (
        environment()
        .get_template("notebook.html")
        .render(
            result=result,
            findings=findings.findings(result, cells),
            rows=html_tables.matrix(result, cells, HEADLINE),
            paths=html_tables.places(result),
            headline=HEADLINE,
        )
    )
