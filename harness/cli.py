"""The command line: `python -m harness ...`. Heavy imports happen inside the commands."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.common.errors import InputError, run_command_line
from harness.common.storage import Address, Place, place

if TYPE_CHECKING:
    from harness.evaluation.executors import Pool
    from harness.results.plan import Plan

METHODS = ("gradcam", "gradcam++", "layercam", "hirescam", "xgradcam")
MAP_SOURCES = ("kernels", "graph")
PROVIDER_HELP = "cpu, cuda, tensorrt; several in order: tensorrt,cuda. cuda+tf32 allows TF32."
LEVELS = ("disabled", "basic", "extended", "all")
PRECISIONS = ("float32", "tf32", "float16")
ENGINES = ("local", "ray")
SELECTIONS = ("true-positive", "agree", "all")
FILE = click.Path(path_type=Path)


class _PlaceType(click.ParamType):
    """A path, or an address such as s3://bucket/run."""

    name = "place"

    def convert(self, value: Any, *_: Any) -> Any:
        return place(value)

    def get_metavar(self, *_: Any, **__: Any) -> str:
        return "PATH"


class Number(click.FloatRange):
    """A number in a range, which NaN is not in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if found != found:
            self.fail(f"{value} is no number.", param, ctx)
        return found


PLACE = _PlaceType()
SHOW_NAMES = click.option("--show-names", is_flag=True, help="Name images and patients in the report; else hashes.")
LOG_TO = click.option("--log-to", metavar="mlflow[:URI]", help="Log result and report there [sqlite:///mlflow.db].")


@click.group()
@click.version_option(package_name="evidence-drift", prog_name="evidence-drift")
def cli() -> None:
    """Measure how far a classifier's visual evidence drifts between two checkpoints.

    Add --debug to any command to see tracebacks.
    """


@cli.command()
@click.argument("files", nargs=-1, type=PLACE, metavar="[STUDY.toml]")
@click.option("--before", type=PLACE, help="Exported graph of the earlier checkpoint.")
@click.option("--after", "afters", multiple=True, type=PLACE, help="The later one; repeat for replicates of its phase.")
@click.option("--checkpoints", is_flag=True, help="Followed by two or more graphs in the order of a training.")
@click.option("--data", type=PLACE, help="Manifest (CSV: file, class, group) or class folders.")
@click.option("--root", type=PLACE, help="Folder of the manifest's files [its own folder].")
@click.option("--split", help="Only manifest rows whose column `split` has this value, for example test.")
@click.option(
    "--from", "source", type=PLACE, help="Compute again from the maps in this result folder, without a model."
)
@click.option("--out", type=PLACE, help="Result folder [drift; with --from, that folder].")
@click.option("--resume", is_flag=True, help="Go on with the unfinished evaluation in --out.")
@click.option(
    "--method", "methods", multiple=True, type=click.Choice(METHODS), help="Repeatable [layercam, gradcam++]."
)
@click.option("--layer", "layers", multiple=True, help="CAM layer by role or name, repeatable [the first in common].")
@click.option("--select", type=click.Choice(SELECTIONS), help="[true-positive]")
@click.option("--map-size", type=click.IntRange(2, 4096), help="Side of compared maps [224].")
@click.option("--seed", type=click.IntRange(0), help="Seed of all that is drawn [0].")
@click.option("--jitter", type=click.IntRange(0), help="Draws of the noise floor, 0 for none [4].")
@click.option("--chance", type=click.IntRange(0), help="Derangements of the chance level, 0 for none [20].")
@click.option("--margin", type=Number(0, 1, min_open=True), help="Accuracies closer than this are equal [0.02].")
@click.option("--batch", type=click.IntRange(1), help="Images per call [16; on a GPU what is fastest].")
@click.option("--threads", type=click.IntRange(1), help="[CPUs; of each Ray worker 1]")
@click.option("--provider", default="cpu", show_default=True, help=PROVIDER_HELP)
@click.option(
    "--maps", type=click.Choice(MAP_SOURCES), help="Who makes the maps; graph: nodes that were exported with --fuse."
)
@click.option(
    "--engine", type=click.Choice(ENGINES), default="local", show_default=True, help="Where the work is done."
)
@click.option("--address", metavar="HOST:PORT", help="Ray cluster [RAY_ADDRESS, else one on this machine].")
@click.option("--workers", type=click.IntRange(1), help="Ray workers [as many as the cluster holds].")
@click.option("--gpus-per-worker", type=Number(0, min_open=True), help="GPUs, or share of one [1 unless on cpu].")
@click.option("--strict", is_flag=True, help="Stop at the first unreadable image.")
@click.option("--wide", is_flag=True, help="Show every metric.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@SHOW_NAMES
@LOG_TO
def evaluate(files: tuple[Place, ...], source: Place | None, out: Place | None, wide: bool, **asked: Any) -> None:
    """Compare exported checkpoints on radiographs; without arguments, on the embedded demonstration.

    \b
    evaluate                                             the demonstration
    evaluate STUDY.toml                                  many architectures, layers, replicates
    evaluate --before A.onnx --after B.onnx --data D     one pair
    evaluate --checkpoints A B C D --data D              drift along a training
    evaluate --from DIR                                  other statistics from the same maps
    """
    from harness.evaluation import run as evaluation_run
    from harness.evaluation.executors import opened
    from harness.evaluation.explain import Running
    from harness.report.text_tables import drift_table
    from harness.results import folder as result_folder

    out = out or source or Path("drift")
    server = _tracking_server(asked["log_to"], out)
    running = Running(asked["batch"], asked["threads"] or os.cpu_count() or 1, asked["strict"])
    execution = evaluation_run.Execution(
        out, running, asked["provider"], asked["resume"], asked["quiet"], show_names=asked["show_names"]
    )
    if source is not None:
        _refuse_beside("--from", files, asked, _NOT_FROM)
        work = partial(evaluation_run.evaluate_again, source, _changes(asked))
    else:
        work = partial(evaluation_run.evaluate, _plan(files, asked))
    with opened(_pool(asked)) as engine:
        result = work(replace(execution, engine=engine))
    click.echo(drift_table(result, wide))
    click.echo(f"\nwritten to {out}: {', '.join(result_folder.written(out))}")
    _log(out, server)


@cli.command()
@click.argument("folder", type=PLACE)
@SHOW_NAMES
@LOG_TO
def report(folder: Place, show_names: bool, log_to: str | None) -> None:
    """Render report.html of a result folder again."""
    server = _tracking_server(log_to, folder)
    from harness.report.html import write_report

    click.echo(f"written to {write_report(folder, show_names)}")
    _log(folder, server)


@cli.command()
@click.argument("model", type=FILE)
@click.argument("image", type=FILE)
@click.option("--out", type=FILE, required=True, help="PNG to write.")
@click.option("--class", "target", help="Class to explain [the predicted one].")
@click.option("--layer", "layers", multiple=True, help="CAM layer by role or name, repeatable [all].")
@click.option("--provider", default="cpu", show_default=True, help=PROVIDER_HELP)
def explain(model: Path, image: Path, out: Path, target: str | None, layers: tuple[str, ...], provider: str) -> None:
    """Show where one exported graph looks in one image, by every CAM method."""
    from harness.models.session import Model
    from harness.report import explain_image as explaining
    from harness.results.plan import Options

    opened = Model.open(model, provider, os.cpu_count() or 1)
    found = explaining.explain(opened, image, target, layers)
    click.echo(explaining.explanation_table(found, Options.map_size))
    title = f"{opened.metadata.architecture}, {opened.metadata.phase}: {found.classes[found.target]}"
    explaining.draw(found, title, out)
    click.echo(f"\nwritten to {out}")


@cli.command()
@click.argument("result", type=PLACE)
@click.option("--policy", type=FILE, default=Path("policy.toml"), show_default=True, help="Rules, as TOML.")
@click.option("--baseline", type=FILE, help="An accepted evaluation.json to compare with.")
@click.option("--update-baseline", is_flag=True, help="Accept RESULT: write it to --baseline, then judge.")
@click.option("--init", is_flag=True, help="Write a first policy to --policy, derived from RESULT.")
@click.option("--fail-on-warning", is_flag=True, help="Exit with 1 where a rule warns.")
@click.option("--json", "json_file", type=FILE, help="Write the verdict as JSON.")
@click.option("--junit", type=FILE, help="Write the verdict as JUnit XML.")
@click.option("--markdown", type=FILE, help="Write the verdict as Markdown, for a pull request.")
@click.option("--github", is_flag=True, help="Print GitHub annotations, and append to the step summary.")
@click.option("--wide", is_flag=True, help="Show every column, a line per case.")
def gate(result: Place, policy: Path, init: bool, **asked: Any) -> int:
    """Judge an evaluation by a policy: exit code 0 passed, 1 failed, 3 where a rule could not be judged."""
    if not init:
        return _judge(result, policy, **asked)
    from harness.gate.derive_policy import initialise

    given = [name for name, value in asked.items() if _is_given(value)]
    if given:
        raise InputError(f"{_spelled(given[0])} judges; leave it out with --init")
    bounds = initialise(result, policy)
    click.echo(f"written to {policy}, {bounds} bounds on maps: look at each, then judge other evaluations by it")
    if not bounds:
        click.echo("warning: no bound on maps could be derived; the policy says why", err=True)
    return 0


def _judge(result: Place, policy: Path, baseline: Path | None, github: bool, wide: bool, **asked: Any) -> int:
    """Judge, print, and write the files that were asked for; returns the exit code."""
    from harness.gate import command, reporters

    if asked.pop("update_baseline"):
        command.accept(result, baseline)
    words = ["python", "-m", "harness", *sys.argv[1:]]
    fail_on_warning = asked.pop("fail_on_warning")
    verdict = command.judge_files(result, policy, baseline, fail_on_warning=fail_on_warning, command=words)
    summary = os.environ.get("GITHUB_STEP_SUMMARY") if github else None
    outputs = command.Outputs(**asked, summary=Path(summary) if summary else None)
    width = shutil.get_terminal_size((reporters.WIDTH, 24)).columns
    click.echo(reporters.terminal(verdict, width, wide), err=outputs.takes_stdout)
    candidate = command.write_candidate(result, baseline) if baseline else None
    if candidate:
        click.echo(f"the candidate for a baseline is {candidate}", err=True)
    command.write_verdict(verdict, result, outputs)
    for line in reporters.github(verdict) if github else ():
        click.echo(line, err=outputs.takes_stdout)
    return verdict.exit_code


@cli.command()
@click.argument("model", type=FILE)
@click.option("--data", type=FILE, required=True, help="Manifest or class folders to choose cases from.")
@click.option("--root", type=FILE, help="Folder of the manifest's files [its own folder].")
@click.option("--split", help="Only manifest rows whose column `split` has this value.")
@click.option("--out", type=FILE, required=True, help="Bundle folder to write; new or empty.")
@click.option("--cases", type=click.IntRange(1, 1000), default=12, show_default=True, help="Golden cases.")
@click.option(
    "--method", "methods", multiple=True, type=click.Choice(METHODS), help="Repeatable [layercam, gradcam++]."
)
@click.option("--layer", "layers", multiple=True, help="CAM layer by role or name, repeatable [the first].")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the choice.")
@click.option("--keep-identifiers", is_flag=True, help="Copy DICOM files as they are, patient's name and all.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def pack(model: Path, data: Path, root: Path | None, split: str | None, out: Path, quiet: bool, **asked: Any) -> None:
    """Pack a model with golden cases and measured tolerances for the deployment side."""
    from harness.bundle.pack import Wanted, pack
    from harness.images.dataset import read_dataset
    from harness.models.metadata import Graph

    metadata = Graph.read(model).metadata
    samples = read_dataset(data, metadata.classes, root, split, metadata.score_kind == "multilabel")
    wanted = Wanted(**{name: value for name, value in asked.items() if value != ()})
    digest = pack(model, samples, wanted, out, quiet)
    click.echo(
        "look at the pictures before they leave the house: text that is burned into them was not removed", err=True
    )
    click.echo(f"written to {out}; give its digest to the deployment side by another way:\n{digest}")


@cli.command()
@click.argument("bundle", type=FILE)
@click.option(
    "--digest", help="sha256 of the manifest, as `pack` printed it; without it the verdict is unauthenticated."
)
@click.option("--provider", default="cpu", show_default=True, help=PROVIDER_HELP)
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="CPUs")
@click.option("--level", type=click.Choice(LEVELS), default="all", show_default=True, help="Graph optimisation.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Tolerances to use [those of the provider].")
@click.option("--json", "json_file", type=FILE, help="Write the outcome as JSON.")
def verify(bundle: Path, digest: str | None, json_file: Path | None, **asked: Any) -> int:
    """Check a bundle on this machine: files, logits, classes, maps, speed. Exit code 0 passed, 1 failed."""
    from harness.bundle.verify import Running, as_json, report, verify
    from harness.common.storage import is_standard_output, write_whole

    found = verify(bundle, digest, Running(**asked))
    click.echo(report(found), err=is_standard_output(json_file))
    if json_file:
        write_whole(json_file, as_json(found))
    return 0 if found.passed else 1


@cli.command()
@click.option("--warm", is_flag=True, help="Compile the kernels now, so that no evaluation waits for it.")
def env(warm: bool) -> None:
    """Show versions, what execution providers lack, and where our packages come from."""
    from tabulate import tabulate

    from harness.common.provenance import origins, versions
    from harness.models.providers import PROVIDERS, gpu_model, state

    rows = [*versions().items(), ("GPU", gpu_model() or "none found")]
    rows += [(f"provider {name}", state(name)) for name in PROVIDERS]
    rows += [(f"{name} from", folder) for name, folder in origins().items()]
    click.echo(tabulate(rows, tablefmt="plain"))
    if warm:
        from kernels.warm import compile_all

        compile_all()
        click.echo("kernels compiled")


def main() -> None:
    """Entry point of `python -m harness` and of `evidence-drift`."""
    run_command_line(cli, "python -m harness")


def _tracking_server(asked: str | None, folder: Place) -> str | None:
    """Where to log, refused before any work where it cannot be."""
    if asked is None:
        return None
    if isinstance(folder, Address):
        raise InputError(f"{folder}: --log-to sends files of a local folder; leave it out, or give a local --out")
    from harness.report import mlflow as mlflow_log

    return mlflow_log.destination(asked)


def _log(folder: Place, server: str | None) -> None:
    if server is None or isinstance(folder, Address):
        return
    from harness.report import mlflow as mlflow_log
    from harness.results.schema import Evaluation

    click.echo(f"logged to {server}: run {mlflow_log.log(Evaluation.read(folder), folder, server)}")


def _pool(asked: dict[str, Any]) -> Pool | None:
    """The Ray workers that were asked for, if any."""
    from harness.evaluation.executors import Pool

    if asked["engine"] != "ray":
        given = [name for name in ("address", "workers", "gpus_per_worker") if asked[name] is not None]
        if given:
            raise InputError(f"{_spelled(given[0])} belongs to --engine ray; add that, or leave it out")
        return None
    from harness.models.providers import accelerated

    gpus = asked["gpus_per_worker"] or float(accelerated(asked["provider"]))
    return Pool(asked["address"], asked["workers"], asked["threads"] or 1, gpus)


def _plan(files: tuple[Place, ...], asked: dict[str, Any]) -> Plan:
    """What the arguments ask for: a study file, a pair, checkpoints along a training, or the demonstration."""
    from harness.evaluation import demonstration
    from harness.evaluation.study_file import ArchitectureConfig, make_plan, read_study
    from harness.results.plan import Data, Options

    options = Options(**_changes(asked))
    if files and not asked["checkpoints"] and files[0].suffix == ".onnx":
        raise InputError(f"{files[0]}: give graphs as --before A --after B, or as --checkpoints A B C, with --data")
    if files and not asked["checkpoints"]:
        _refuse_beside(
            f"the study {files[0]}", files[1:], asked, (*_OPTIONS, "before", "afters", "data", "root", "split")
        )
        return read_study(files[0])
    if asked["checkpoints"]:
        _refuse_beside("--checkpoints", (), asked, ("before", "afters"))
        if len(files) < 2 or asked["data"] is None:
            raise InputError("--checkpoints takes two graphs or more, in the order of the training, and --data")
        item = ArchitectureConfig(checkpoints=list(files))
        return make_plan([item], Data(asked["data"], asked["root"], asked["split"]), options)
    given = [asked["before"] is not None, bool(asked["afters"]), asked["data"] is not None]
    if not any([*given, asked["root"] is not None, asked["split"] is not None]):
        return demonstration.plan(options)
    if not all(given):
        raise InputError("give --before, --after and --data together, or none of them for the demonstration")
    item = ArchitectureConfig(before=asked["before"], after=list(asked["afters"]))
    return make_plan([item], Data(asked["data"], asked["root"], asked["split"]), options)


_NOT_FROM = ("before", "afters", "checkpoints", "data", "root", "split", "resume", "strict", "maps")
_OPTIONS = ("methods", "layers", "select", "map_size", "seed", "jitter", "chance", "margin", "maps")


def _changes(asked: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as `Options` names them."""
    given = {name: asked[name] for name in _OPTIONS if _is_given(asked[name])}
    for name in ("methods", "layers"):
        if name in given:
            given[name] = tuple(dict.fromkeys(given[name]))
    if "map_size" in given:
        given["map_size"] = (given["map_size"], given["map_size"])
    return given


def _is_given(value: Any) -> bool:
    """True for an option that was named; 0 is a value."""
    return value is not None and value is not False and value != ()


def _spelled(name: str) -> str:
    """An option as people write it, by the name of its parameter."""
    others = {"afters": "after", "methods": "method", "layers": "layer", "json_file": "json"}
    return f"--{others.get(name, name).replace('_', '-')}"


def _refuse_beside(what: str, files: tuple[Place, ...], asked: dict[str, Any], names: tuple[str, ...]) -> None:
    given = [name for name in names if _is_given(asked[name])]
    strange = [str(file) for file in files] + [_spelled(name) for name in given]
    if strange:
        raise InputError(f"{strange[0]} cannot be given beside {what}, which says that itself; leave it out")
