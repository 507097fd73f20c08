"""`report.html`: one file that needs nothing else, from `evaluation.json`, `scores/` and `maps/`.

What is shown is decided here and in `findings`, `html_tables`, `gallery` and `plots`; how it looks, in `templates/`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.common.errors import InputError
from harness.common.formatting import count, number, one_line, percent, signed, span
from harness.common.storage import Location, write_whole
from harness.report import causal, change, findings, heatmaps, html_tables, nulls, paradigms, plots
from harness.report.gallery import GONE, Gallery
from harness.report.glossary import definitions, method_key
from harness.report.plots import Series
from harness.report.summaries import Summaries, with_span
from harness.results.file_names import REPORT
from harness.results.pseudonyms import Names, without_home
from harness.results.schema import Evaluation
from harness.results.vocabulary import BUILT_IN, HEADLINE

TEMPLATES = Path(__file__).parent / "templates"
_REFERENCES = {
    r"doi:(10\.[^\s,;]+)": "https://doi.org/",
    r"arXiv (\d{4}\.\d{4,5})": "https://arxiv.org/abs/",
}


@dataclass(frozen=True)
class Group:
    """Lines of the stamp under one heading."""

    title: str
    lines: list[tuple[str, str]]


def write_report(result: Evaluation, folder: Location, names: Names) -> Location:
    """Render the report of a result into its folder."""
    write_whole(folder / REPORT, render(result, folder, names))
    return folder / REPORT


def render(result: Evaluation, folder: Location, names: Names) -> str:
    """The report as text."""
    summaries = Summaries(result)
    comparisons = html_tables.headline_comparisons(result.study)
    found = findings.findings(result, summaries)
    missing = html_tables.missing(result)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return (
        environment()
        .get_template("report.html")
        .render(
            result=result,
            summaries=summaries,
            findings=found,
            overall=findings.overall(found),
            lowest=findings.lowest(found),
            definitions=definitions(result.methods, result.vocabulary),
            headline=HEADLINE,
            metrics=html_tables.switched(result.vocabulary),
            comparisons=comparisons,
            slopes=_slopes(comparisons),
            trainings=list(_trainings(result, summaries)),
            causal=[
                html_tables.Line(tuple(row), row[4] == "moved and used") for row in causal.rows(result, classes=True)
            ],
            by_paradigm=[line for item in comparisons for line in paradigms.orders(item, result.vocabulary)],
            nulls=[html_tables.Line(tuple(row), row[-1] == "blind") for row in nulls.rows(result)],
            null_headers=nulls.HEADERS,
            null_note=nulls.NOTE,
            causal_headers=causal.HEADERS,
            causal_note=causal.NOTE,
            missing=missing,
            reasons=html_tables.reason_sentences(result, missing),
            unreadable=unreadable(result, names),
            gallery=_gallery(folder, names),
            gone=GONE,
            gradients={
                "map": gradient(heatmaps.colours() / 255),
                "change": gradient(change.scale()),
            },
            full=change.FULL,
            stamp=stamp(result),
            pseudonymous=names.key is not None,
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_digest=script_digest(script),
        )
    )


def script_digest(script: str) -> str:
    """What the page's content policy calls its only script: nothing else may run in it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def cited(source: str) -> Markup:
    """A source with its DOI or arXiv number as a link."""
    text = str(escape(source))
    for pattern, address in _REFERENCES.items():
        text = re.sub(pattern, rf'<a href="{address}\1" rel="noreferrer">\g<0></a>', text)
    return Markup(text)


def unreadable(result: Evaluation, names: Names) -> list[tuple[str, str]]:
    """Images that could not be read and why, without their names and paths unless names are shown."""
    return [(names.image(name), _what(error, name, names)) for name, error in result.unreadable.items()]


def _what(error: str, name: str, names: Names) -> str:
    """Errors begin with the file: `PATH: what is wrong`."""
    if names.key is None:
        return without_home(error)
    found = re.match(rf"(?:.*/)?{re.escape(PurePath(name).as_posix())}: (.*)", error, re.DOTALL)
    what = found.group(1) if found else "cannot be read"
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "the file", what)


def stamp(result: Evaluation) -> list[Group]:
    """Everything that says where the numbers come from."""
    return [_run(result), _options(result), _machine(result), *(_model(result, key) for key in result.by_key)]


def _run(result: Evaluation) -> Group:
    seconds = {name: f"{value:,.1f} s" for name, value in result.seconds.items()}
    lines = [
        ("command", shlex.join(result.command)),
        ("data", result.data),
        ("root", result.root or ""),
        ("split", result.split or ""),
        ("data digest", result.data_digest),
        ("images", f"{result.images:,} of {result.patients:,} patients, {len(result.unreadable):,} unreadable"),
        ("wall time", f"{seconds.pop('total', 'not recorded')}{_in_brackets(seconds)}"),
    ]
    return Group("Run", _shown(lines))


def _in_brackets(values: Mapping[str, str]) -> str:
    return f" ({', '.join(f'{name} {value}' for name, value in values.items())})" if values else ""


def _options(result: Evaluation) -> Group:
    lines = [
        ("selection", result.selection),
        ("methods", ", ".join(result.methods)),
        ("layers", ", ".join(result.layers)),
        ("map size", " x ".join(map(str, result.map_size))),
        ("seed", str(result.seed)),
        ("bootstrap resamples", f"{result.resamples:,}"),
        ("floor and chance", result.references),
        ("margin of equivalence", f"{result.margin:g}"),
        ("images of methods that take several passes", "" if result.sample is None else f"at most {result.sample}"),
    ]
    return Group("Options", _shown(lines))


def _machine(result: Evaluation) -> Group:
    content = dict(result.environment)
    versions = content.pop("versions", {})
    lines = [
        (name.replace("_", " "), value if isinstance(value, str) else _json(value)) for name, value in content.items()
    ]
    return Group("Machine", _shown([*lines, *((name, str(version)) for name, version in versions.items())]))


def _model(result: Evaluation, key: str) -> Group:
    checkpoint = result.by_key[key]
    metadata = checkpoint.metadata.model_dump(mode="json", exclude={"layers", "classes"})
    layers = {layer.label: layer.name for layer in checkpoint.metadata.layers}
    lines = [
        ("file", checkpoint.file),
        ("file digest", checkpoint.digest),
        *(
            (name.replace("_", " "), value if isinstance(value, str) else _json(value))
            for name, value in metadata.items()
        ),
        ("classes", ", ".join(checkpoint.metadata.classes)),
        ("CAM layers", ", ".join(f"{label} = {name}" for label, name in layers.items())),
    ]
    return Group(f"Model {key}", _shown(lines))


def _shown(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Lines that say something, without home folders."""
    return [(label, without_home(text)) for label, text in lines if text not in ("", "null", "[]")]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _slopes(comparisons: list[Any]) -> list[tuple[str, Markup]]:
    """(layer, picture) where two architectures or more are compared under two methods or more."""
    upwards = BUILT_IN.direction_of(HEADLINE) > 0
    return [
        (item.layer, Markup(plots.slopes(item.rankings, upwards))) for item in comparisons if len(item.rankings) > 1
    ]


def _trainings(result: Evaluation, summaries: Summaries) -> Iterator[tuple[list[html_tables.Step], Markup]]:
    """(table, picture) of every training."""
    for keys in html_tables.trainings(result):
        panels = {
            f"index by {HEADLINE}, {result.layers[0]}": list(_indices(result, summaries, keys)),
            "classification": list(_qualities(result, keys)),
        }
        shown = {title: series for title, series in panels.items() if series}
        yield html_tables.steps(result, summaries, keys), Markup(plots.along(keys, shown))


def _indices(result: Evaluation, summaries: Summaries, keys: list[str]) -> Iterator[Series]:
    """Since the first checkpoint, and since the one before, under the first method."""
    for name, dashed, before in (("since the first", False, None), ("since the one before", True, -1)):
        points = []
        for later in range(1, len(keys)):
            earlier = keys[0] if before is None else keys[later + before]
            pair = html_tables.pair_between(result, earlier, keys[later])
            item = summaries.get(pair, result.layers[0], result.methods[0], HEADLINE) if pair else None
            if item and item.index:
                points.append((later, item.index.value, item.index.low, item.index.high))
        yield Series(name, points, dashed)


def _qualities(result: Evaluation, keys: list[str]) -> Iterator[Series]:
    for name, words in (("accuracy", "accuracy"), ("auc", "macro AUC")):
        found = [result.by_key[key].quality.get(name) for key in keys]
        if any(found):
            yield Series(words, [(n, one.mean, one.low, one.high) for n, one in enumerate(found) if one])


def _gallery(folder: Location, names: Names) -> dict[str, Any] | None:
    """None where the folder holds no maps (any more).

    :raises InputError: a part is damaged, or of another evaluation.
    """
    try:
        gallery = Gallery(folder, names)
    except InputError:
        return None
    return gallery.data()


def gradient(table: np.ndarray) -> str:
    """Colours (256, 3) in 0..1 as a CSS gradient; its 17 stops meet the middle."""
    colours = np.round(255 * table[np.linspace(0, 255, 17).round().astype(int)]).astype(int)
    return "linear-gradient(to right, " + ", ".join(f"rgb({r} {g} {b})" for r, g, b in colours) + ")"


def _seen(value: Any) -> Any:
    """What a template writes: texts by `one_line`; markup is made of such texts already."""
    return one_line(value) if type(value) is str else value


@cache
def environment(*folders: Path) -> Environment:
    """Templates escape whatever they are given; a name that is missing is an error. Each is compiled once.

    :param folders: where templates lie, beside those of the report.
    """
    made = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    made.filters |= {
        "number": number, "signed": signed, "span": span, "with_span": with_span, "percent": percent, "count": count,
        "cited": cited, "without_home": without_home, "method_key": method_key,
    }  # fmt: skip
    made.globals |= {"views": html_tables}
    return made
