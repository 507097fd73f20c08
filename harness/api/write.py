"""What an evaluation leaves in its folder beside the parts: the result, the report and the contact sheet."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.common.errors import EvaluationWarning, InputError
from harness.common.storage import Location, write_bytes, write_whole
from harness.evaluation.run import Finished
from harness.report.contact_sheet import draw_sheet
from harness.report.html import write_report
from harness.report.text_tables import markdown
from harness.results.file_names import MARKDOWN, REPORT, SHEET
from harness.results.pseudonyms import Names, names_of
from harness.results.reader import Reader
from harness.results.schema import Evaluation


def write(finished: Finished, out: Location, report: bool, show_names: bool) -> None:
    """Write `evaluation.json` and, where asked for, what people look at; remove what a killed process left behind."""
    names = names_of(out, show_names)
    if report:
        _draw(finished.reader, out, names)
        write_whole(out / MARKDOWN, markdown(finished.result))
    else:
        for name in (SHEET, MARKDOWN, REPORT):
            (out / name).unlink(missing_ok=True)
    finished.result.write(out)
    if report:
        write_report(finished.result, out, names)
    finished.reader.store.sweep()


def render_again(folder: Location, show_names: bool = False) -> Location:
    """Render `report.html` of a result folder once more; returns where it is.

    :raises InputError: the folder holds no evaluation.
    """
    return write_report(Evaluation.read(folder), folder, names_of(folder, show_names))


def _draw(reader: Reader, out: Location, names: Names) -> None:
    """The contact sheet, or a warning that says why there is none."""
    with TemporaryDirectory() as here:
        drawn = Path(here) / SHEET
        try:
            draw_sheet(reader, drawn, names)
        except InputError as error:
            warnings.warn(f"no contact sheet: {error}", EvaluationWarning, stacklevel=2)
        if drawn.is_file():
            write_bytes(out / SHEET, drawn.read_bytes())
        else:
            (out / SHEET).unlink(missing_ok=True)
