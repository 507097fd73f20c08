"""The command line: `python -m harness ...`. Heavy imports happen inside the commands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli_options import given_options, option_flags, spelled
from harness.common.cpus import available_cpus
from harness.common.errors import InputError, run_command_line, warn, warnings_shown
from harness.common.storage import Address, Location, as_location
from kernels.catalogue import METHODS

if TYPE_CHECKING:
    from harness.api.evaluation import Settings
    from harness.api.explanations import Request
    from harness.evaluation.executors import WorkerPool
    from harness.images.regions import RegionFiles
    from harness.models.session import Model
    from harness.results.plan import Plan

MAP_SOURCES = ("kernels", "graph")
PROVIDER_HELP = "cpu, cuda, tensorrt; several in order: tensorrt,cuda. cuda+tf32 allows TF32."
LEVELS = ("disabled", "basic", "extended", "all")
PRECISIONS = ("float32", "tf32", "float16")
ENGINES = ("local", "ray")
DEMONSTRATIONS = ("radiographs", "colour")
EXPLAINED_AS = ("parametric-map", "secondary-capture")
SELECTIONS = ("true-positive", "agree", "all")
FILE = click.Path(path_type=Path)


class _PlaceType(click.ParamType):
    """A path, or an address such as s3://bucket/run."""

    name = "place"

    def convert(self, value: Any, *_: Any) -> Any:
        return as_location(value)

    def get_metavar(self, *_: Any, **__: Any) -> str:
        return "PATH"


class _MethodType(click.Choice):
    """A CAM method: one of ours, which help lists, or one that was registered or comes with an installed package."""

    def __init__(self) -> None:
        super().__init__(tuple(METHODS.built_in))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            problem = "" if value in METHODS else f"{value!r} is not one of {', '.join(map(repr, METHODS))}."
        except ValueError as error:  # an installed package offers what cannot be registered
            problem = str(error)
        if problem:
            self.fail(problem, param, ctx)
        return value


class Number(click.FloatRange):
    """A number in a range, which NaN is not in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if found != found:
            self.fail(f"{value} is no number.", param, ctx)
        return found


PLACE = _PlaceType()
METHOD = _MethodType()
COLUMNS = click.option(
    "--columns",
    metavar="ROLE=NAME,...",
    help="What the manifest calls its columns: file=path,class=label,group=patient_id.",
)
LABELS = click.option(
    "--labels",
    type=PLACE,
    help="Table that names the classes of a folder's images, by file, SOPInstanceUID, StudyInstanceUID, "
    "AccessionNumber or PatientID.",
)
MAX_PIXELS = click.option(
    "--max-pixels", type=Number(1), default=100e6, show_default="100 million", help="Larger pictures are not read."
)
SHOW_NAMES = click.option("--show-names", is_flag=True, help="Name images and patients in the report; else hashes.")
LOG_TO = click.option("--log-to", metavar="mlflow[:URI]", help="Log result and report there [sqlite:///mlflow.db].")


@click.group()
@click.version_option(package_name="evidence-drift", prog_name="evidence-drift")
def cli() -> None:
    """Measure how far a classifier's visual evidence drifts between two checkpoints.

    Add --debug to any command to see tracebacks.
    """
    click.get_current_context().with_resource(warnings_shown())


@cli.command()
@click.argument("files", nargs=-1, type=PLACE, metavar="[STUDY.toml]")
@click.option("--before", type=PLACE, help="Exported graph of the earlier checkpoint.")
@click.option("--after", "afters", multiple=True, type=PLACE, help="The later one; repeat for replicates of its phase.")
@click.option("--checkpoints", is_flag=True, help="Followed by two or more graphs in the order of a training.")
@click.option("--null", "nulls", multiple=True, type=PLACE, help="A graph that knows nothing (export randomise).")
@click.option("--data", type=PLACE, help="Manifest (CSV: file, class, group), folder, or DICOMDIR.")
@click.option("--root", type=PLACE, help="Folder of the manifest's files [its own folder].")
@click.option("--split", help="Only manifest rows whose column `split` has this value, for example test.")
@COLUMNS
@LABELS
@click.option(
    "--masks", multiple=True, metavar="[NAME=]DIR", help="Masks of a region, called like the images; repeatable."
)
@click.option("--boxes", type=PLACE, help="Boxes: CSV with file, x, y, w, h; perhaps region, width, height.")
@click.option(
    "--from", "source", type=PLACE, help="Compute again from the maps in this result folder, without a model."
)
@click.option("--demo", type=click.Choice(DEMONSTRATIONS), help="An embedded demonstration [radiographs].")
@click.option("--out", type=PLACE, help="Result folder [drift; with --from, that folder].")
@click.option("--resume", is_flag=True, help="Go on with the unfinished evaluation in --out.")
@option_flags({"methods": METHOD})
@click.option("--batch", type=click.IntRange(1), help="Images per call [4; on a GPU what is fastest].")
@click.option("--threads", type=click.IntRange(1), help="[CPUs; of each Ray worker 1]")
@click.option("--provider", default="cpu", show_default=True, help=PROVIDER_HELP)
@click.option(
    "--engine", type=click.Choice(ENGINES), default="local", show_default=True, help="Where the work is done."
)
@click.option("--address", metavar="HOST:PORT", help="Ray cluster [RAY_ADDRESS, else one on this machine].")
@click.option("--workers", type=click.IntRange(1), help="Ray workers [as many as the cluster holds].")
@click.option("--gpus-per-worker", type=Number(0, min_open=True), help="GPUs, or share of one [1 unless on cpu].")
@MAX_PIXELS
@click.option("--strict", is_flag=True, help="Stop at the first unreadable image.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it would take; write nothing.")
@click.option("--wide", is_flag=True, help="Show every metric.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@SHOW_NAMES
@LOG_TO
def evaluate(
    files: tuple[Location, ...], source: Location | None, out: Location | None, wide: bool, dry_run: bool, **asked: Any
) -> None:
    """Compare exported checkpoints on radiographs; without arguments, on the embedded demonstration.

    \b
    evaluate                                             the demonstration; --demo colour: another
    evaluate STUDY.toml                                  many architectures, layers, replicates
    evaluate --before A.onnx --after B.onnx --data D     one pair
    evaluate --checkpoints A B C D --data D              drift along a training
    evaluate --from DIR                                  other statistics from the same maps
    """
    from harness.api.evaluation import estimate_plan, evaluate_again, evaluate_plan
    from harness.report.text_tables import drift_table
    from harness.results.folder import written

    out = out or source or Path("drift")
    server = _tracking_server(asked["log_to"], out)
    settings = _settings(out, asked)
    if source is not None:
        _refuse_beside("--from", files, {**asked, "dry_run": dry_run}, (*_NOT_FROM, "dry_run"))
        result = evaluate_again(source, settings, _regions(asked), **given_options(asked))
    elif dry_run:
        click.echo("\n".join(estimate_plan(_plan(files, asked), settings).lines()))
        return
    else:
        result = evaluate_plan(replace(_plan(files, asked), nulls=asked["nulls"]), settings)
    click.echo(drift_table(result.evaluation, wide))
    click.echo(f"\nwritten to {out}: {', '.join(written(out))}")
    _log_if_possible(out, server)


@cli.command()
@click.argument("folder", type=PLACE)
@SHOW_NAMES
@LOG_TO
def report(folder: Location, show_names: bool, log_to: str | None) -> None:
    """Render report.html of a result folder again."""
    server = _tracking_server(log_to, folder)
    from harness.api.write import render_again

    click.echo(f"written to {render_again(folder, show_names)}")
    _log(folder, server)


@cli.command("explain")
@click.argument("model", type=FILE)
@click.argument("images", nargs=-1, required=True, type=FILE, metavar="IMAGE...")
@click.option("--out", type=FILE, required=True, help="PNG to write; for several images, or DICOM, the folder.")
@click.option(
    "--dicom", type=click.Choice(EXPLAINED_AS), help="Write DICOM objects that belong to the images' studies."
)
@click.option("--class", "target", help="Class to explain [the predicted one].")
@click.option("--layer", "layers", multiple=True, help="CAM layer by role or name, repeatable [all].")
@click.option("--method", "methods", multiple=True, type=METHOD, help="Repeatable [all that take one pass together].")
@MAX_PIXELS
@click.option("--provider", default="cpu", show_default=True, help=PROVIDER_HELP)
def explain_image(model: Path, images: tuple[Path, ...], out: Path, dicom: str | None, target: str | None,
                  layers: tuple[str, ...], methods: tuple[str, ...], max_pixels: float,
                  provider: str) -> None:  # fmt: skip
    """Show where one exported graph looks in images, by every CAM method.

    IMAGE is a file, a folder of images (class folders, nested DICOM files) or a DICOMDIR; repeatable.
    """
    from harness.api.explanations import Request
    from harness.images.folders import is_dicomdir
    from harness.models.session import Model

    opened = Model.open(model, provider, available_cpus())
    click.echo(f"image rule {opened.metadata.rule}\n")
    request = Request(target, layers, methods, dicom, max_pixels)
    one = len(images) == 1 and dicom is None and not images[0].is_dir() and not is_dicomdir(images[0])
    (_explain_one if one else _explain_many)(opened, images, out, request)
    click.echo(f"\nwritten to {out}")


def _explain_one(model: Model, images: tuple[Path, ...], out: Path, request: Request) -> None:
    """The table of one image, and its PNG."""
    from harness.api.explanation import explain
    from harness.report.explain_image import draw, explanation_table
    from harness.results.options import Options

    found = explain(model, images[0], request.target, request.layers, request.methods, max_pixels=request.max_pixels)
    click.echo(explanation_table(found, Options().map_size))
    draw(found, f"{model.metadata.title}: {found.classes[found.target]}", out)


def _explain_many(model: Model, images: tuple[Path, ...], out: Path, request: Request) -> None:
    """A table of all images, and a file per image, or per image and map."""
    from harness.api.explanations import explain_all, list_images
    from harness.report.explain_image import summary_table
    from harness.results.options import Options

    found = explain_all(model, list_images(images, warn), out, request, warn)
    click.echo(summary_table(found, Options().map_size))


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
def gate(result: Location, policy: Path, init: bool, **asked: Any) -> int:
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


def _judge(result: Location, policy: Path, baseline: Path | None, github: bool, wide: bool, **asked: Any) -> int:
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
@click.argument("result", type=PLACE)
@click.option("--policy", type=FILE, required=True, help="Rules, committed to git before the evaluation began.")
@click.option("--baseline", type=FILE, help="An accepted evaluation.json to compare with.")
@click.option("--out", type=FILE, default=Path("dossier.html"), show_default=True, help="HTML to write.")
@click.option("--sign", type=FILE, help="Private Ed25519 key (PEM): sign it, as OUT.sig.")
def dossier(result: Location, policy: Path, baseline: Path | None, out: Path, sign: Path | None) -> int:
    """Write a result and its verdict as one printable document, in the order of a change control plan.

    Exit codes are those of gate. A policy that is younger than the result, or was derived from it, is refused.
    """
    from harness.api.documents import write_dossier
    from harness.gate.reporters import summary

    verdict, written = write_dossier(result, policy, baseline, out, sign, ["python", "-m", "harness", *sys.argv[1:]])
    click.echo(summary(verdict))
    click.echo(f"written to {', '.join(map(str, written))}")
    return verdict.exit_code


@cli.command()
@click.argument("model", type=FILE)
@click.option("--data", type=FILE, required=True, help="Manifest, folder or DICOMDIR to choose cases from.")
@click.option("--root", type=FILE, help="Folder of the manifest's files [its own folder].")
@click.option("--split", help="Only manifest rows whose column `split` has this value.")
@COLUMNS
@LABELS
@click.option("--out", type=FILE, required=True, help="Bundle folder to write; new or empty.")
@click.option("--cases", type=click.IntRange(1, 1000), default=12, show_default=True, help="Golden cases.")
@click.option("--method", "methods", multiple=True, type=METHOD, help="Repeatable [layercam, gradcam++].")
@click.option("--layer", "layers", multiple=True, help="CAM layer by role or name, repeatable [the first].")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the choice.")
@MAX_PIXELS
@click.option("--keep-identifiers", is_flag=True, help="Copy DICOM files as they are, patient's name and all.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def pack(model: Path, data: Path, root: Path | None, split: str | None, columns: str | None, labels: Location | None,
         out: Path, quiet: bool, **asked: Any) -> None:  # fmt: skip
    """Pack a model with golden cases and measured tolerances for the deployment side."""
    from harness.api.progress import shown
    from harness.bundle.pack import PackOptions, pack
    from harness.images.columns import parse_columns
    from harness.images.dataset import read_dataset
    from harness.models.metadata import Graph

    metadata = Graph.read(model).metadata
    multilabel, named = metadata.score_kind == "multilabel", parse_columns(columns)
    samples = read_dataset(data, metadata.classes, root, split, multilabel, named, warn, labels)
    options = PackOptions(**{name: value for name, value in asked.items() if value != ()})
    with shown(False if quiet else None) as progress:
        digest = pack(model, samples, options, out, progress)
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
@click.option("--threads", type=click.IntRange(1), default=available_cpus(), show_default="CPUs")
@click.option("--level", type=click.Choice(LEVELS), default="all", show_default=True, help="Graph optimisation.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Tolerances to use [those of the provider].")
@click.option("--json", "json_file", type=FILE, help="Write the outcome as JSON.")
@click.option(
    "--key", type=FILE, help="Public Ed25519 key (PEM): BUNDLE is a signed dossier.html; check its signature."
)
def verify(bundle: Path, digest: str | None, json_file: Path | None, key: Path | None, **asked: Any) -> int:
    """Check a bundle on this machine: files, logits, classes, maps, speed. Exit code 0 passed, 1 failed.

    With --key check the signature of a dossier instead.
    """
    if key is not None or bundle.is_file():
        return _verify_signature(bundle, key)
    from harness.bundle.verify import VerifyOptions, as_json, report, verify
    from harness.common.storage import is_standard_output, write_whole

    found = verify(bundle, digest, VerifyOptions(**asked))
    click.echo(report(found), err=is_standard_output(json_file))
    if json_file:
        write_whole(json_file, as_json(found))
    return 0 if found.passed else 1


def _verify_signature(file: Path, key: Path | None) -> int:
    if key is None:
        raise InputError(f"{file}: is a file; give the signer's public key with --key, or the folder of a bundle")
    from harness.change_control.signature import is_signed_by, signature_file

    signed = is_signed_by(file, key)
    words = "is that of the key for this file" if signed else "is not that of the key for this file"
    click.echo(f"{signature_file(file)} {words}\nverdict: {'PASS' if signed else 'FAIL'}")
    return 0 if signed else 1


@cli.command()
@click.argument("model", type=FILE)
@click.option("--reference", type=PLACE, required=True, help="Result folder of the accepted evaluation.")
@click.option("--data", type=PLACE, required=True, help="New pictures: a folder, or a manifest; no classes needed.")
@click.option(
    "--state", type=FILE, default=Path("monitor/state.json"), show_default=True, help="What is kept between nights."
)
@click.option("--root", type=PLACE, help="Folder of the manifest's files [its own folder].")
@click.option("--split", help="Only manifest rows whose column `split` has this value.")
@COLUMNS
@click.option(
    "--masks", multiple=True, metavar="[NAME=]DIR", help="Masks of the reference's regions, for new pictures."
)
@click.option("--boxes", type=PLACE, help="Boxes of the reference's regions, for new pictures.")
@click.option("--bundle", type=FILE, help="Verify the golden cases of this bundle, too.")
@click.option("--digest", help="sha256 of the bundle's manifest, as `pack` printed it.")
@click.option("--layer", help="CAM layer to watch [the first of the reference].")
@click.option("--method", type=METHOD, help="CAM method to watch [the first of the reference].")
@click.option(
    "--alpha", type=Number(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
    help="Probability of ever raising a false alarm, at most.",
)  # fmt: skip
@click.option("--provider", help="Must be that of the reference [it].")
@click.option("--threads", type=click.IntRange(1), default=available_cpus(), show_default="CPUs")
@MAX_PIXELS
@click.option("--night", help="What to call this night [today's date, UTC].")
@click.option(
    "--prometheus", type=FILE, help="Metrics for Prometheus's textfile collector [metrics.prom by the state]."
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def monitor(masks: tuple[str, ...], boxes: Location | None, columns: str | None, prometheus: Path | None, quiet: bool,
            **asked: Any) -> int:  # fmt: skip
    """Watch a deployed model on new pictures: exit code 0 no alarm, 1 an alarm or failed golden cases, 3 not judged."""
    from harness.api.monitoring import run_night
    from harness.images.columns import parse_columns
    from harness.monitoring.outputs import places, table
    from harness.monitoring.run import Request

    regions = _regions({"masks": masks, "boxes": boxes})
    request = Request(**asked, columns=parse_columns(columns), regions=regions)
    found = run_night(request, prometheus, False if quiet else None)
    click.echo(table(found))
    click.echo(f"\nwritten to {', '.join(map(str, [asked['state'], *places(asked['state'].parent, prometheus)]))}")
    return found.exit_code


@cli.command()
@click.option("--warm", is_flag=True, help="Compile the kernels now, so that no evaluation waits for it.")
def env(warm: bool) -> None:
    """Show versions, what execution providers lack, and where our packages come from."""
    from tabulate import tabulate

    from harness.common.provenance import origins, versions
    from harness.images.presets import NAMES
    from harness.images.rule import GREY
    from harness.models.providers import PROVIDERS, gpu_model, state

    rows = [*versions().items(), ("GPU", gpu_model() or "none found")]
    rows += [(f"provider {name}", state(name)) for name in PROVIDERS]
    rows += [("image rule", str(GREY)), ("other image rules", ", ".join(NAMES))]
    rows += [(f"{name} from", folder) for name, folder in origins().items()]
    click.echo(tabulate(rows, tablefmt="plain"))
    if warm:
        from kernels.precompile import compile_all

        compile_all()
        click.echo("kernels compiled")


def main() -> None:
    """Entry point of `python -m harness` and of `evidence-drift`."""
    if _SUPERVISED in os.environ:
        _end_with_parent()
    elif _starts_ray(sys.argv[1:]):
        sys.exit(_supervised(sys.argv[1:]))
    run_command_line(cli, "python -m harness")


_SUPERVISED = "EVIDENCE_DRIFT_SUPERVISED"


def _end_with_parent() -> None:
    """Let Linux kill this process where the one that supervises it is killed, so that no evaluation goes on unseen."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _starts_ray(arguments: list[str]) -> bool:
    """Whether a command line starts a Ray cluster of its own."""
    words = " ".join(arguments).replace("--engine=ray", "--engine ray")
    return "--engine ray" in words and "--address" not in words and "RAY_ADDRESS" not in os.environ


def _supervised(arguments: list[str]) -> int:
    """Run the command line in a process of its own; returns the exit code.

    Ray's core ends the process with code 1 where its daemon dies, and nothing in that process can prevent it. 1 means
    that a gate failed, and `evaluate` never says so.
    """
    from harness.evaluation.executors import DIED

    environment = {**os.environ, _SUPERVISED: "1"}
    with subprocess.Popen([sys.executable, "-m", "harness", *arguments], env=environment) as child:
        while True:
            try:
                code = child.wait()
                break
            except KeyboardInterrupt:  # the child has got it, too, and says what is kept
                continue
    if code == 1:
        print(f"error: {DIED}", file=sys.stderr)
    return 3 if code == 1 else code if code >= 0 else 128 - code


def _tracking_server(asked: str | None, folder: Location) -> str | None:
    """Where to log, refused before any work where it cannot be."""
    if asked is None:
        return None
    if isinstance(folder, Address):
        raise InputError(f"{folder}: --log-to sends files of a local folder; leave it out, or give a local --out")
    from harness.report import mlflow as mlflow_log

    return mlflow_log.destination(asked)


def _log_if_possible(folder: Location, server: str | None) -> None:
    """Log an evaluation that has just been made: it is whole, whatever becomes of the logging."""
    try:
        _log(folder, server)
    except InputError as error:
        warn(f"not logged: {error}; log it later with `python -m harness report {folder} --log-to ...`")


def _log(folder: Location, server: str | None) -> None:
    if server is None or isinstance(folder, Address):
        return
    from harness.report import mlflow as mlflow_log
    from harness.results.schema import Evaluation

    click.echo(f"logged to {server}: run {mlflow_log.log(Evaluation.read(folder), folder, server)}")


def _settings(out: Location, asked: dict[str, Any]) -> Settings:
    from harness.api.evaluation import Settings

    return Settings(
        out=out,
        provider=asked["provider"],
        batch=asked["batch"],
        threads=asked["threads"],
        strict=asked["strict"],
        max_pixels=asked["max_pixels"],
        resume=asked["resume"],
        show_names=asked["show_names"],
        progress=False if asked["quiet"] else None,
        workers=_pool(asked),
        command=("python", "-m", "harness", *(word for word in sys.argv[1:] if word != "--resume")),
    )


def _pool(asked: dict[str, Any]) -> WorkerPool | None:
    """The Ray workers that were asked for, if any."""
    from harness.evaluation.executors import WorkerPool

    if asked["engine"] != "ray":
        given = [name for name in ("address", "workers", "gpus_per_worker") if asked[name] is not None]
        if given:
            raise InputError(f"{_spelled(given[0])} belongs to --engine ray; add that, or leave it out")
        return None
    from harness.models.providers import accelerated

    gpus = asked["gpus_per_worker"] or float(accelerated(asked["provider"]))
    return WorkerPool(asked["address"], asked["workers"], asked["threads"] or 1, gpus)


def _plan(files: tuple[Location, ...], asked: dict[str, Any]) -> Plan:
    """What the arguments ask for: a study file, a pair, checkpoints along a training, or the demonstration."""
    from harness.evaluation import demonstration
    from harness.evaluation.study_file import ArchitectureConfig, make_plan, read_study
    from harness.images.columns import parse_columns
    from harness.results.options import Options
    from harness.results.plan import Data

    options = Options.of(**given_options(asked))
    if asked["demo"]:
        beside = ("before", "afters", "checkpoints", "data", "root", "split", "columns", "labels", "masks", "boxes")
        _refuse_beside("--demo", files, asked, beside)
        return demonstration.plan(options, asked["demo"])
    columns = parse_columns(asked["columns"])
    data = Data(asked["data"], asked["root"], asked["split"], columns, _regions(asked), asked["labels"])
    if files and not asked["checkpoints"] and files[0].suffix == ".onnx":
        raise InputError(f"{files[0]}: give graphs as --before A --after B, or as --checkpoints A B C, with --data")
    if files and not asked["checkpoints"]:
        _refuse_beside(
            f"the study {files[0]}",
            files[1:],
            asked,
            (*Options.model_fields, "before", "afters", "data", "root", "split", "columns", "labels", "masks", "boxes"),
        )
        return read_study(files[0])
    if asked["checkpoints"]:
        _refuse_beside("--checkpoints", (), asked, ("before", "afters"))
        if len(files) < 2 or asked["data"] is None:
            raise InputError("--checkpoints takes two graphs or more, in the order of the training, and --data")
        item = ArchitectureConfig(checkpoints=list(files))
        return make_plan([item], data, options)
    given = [asked["before"] is not None, bool(asked["afters"]), asked["data"] is not None]
    if not any([*given, data.regions, *(asked[name] is not None for name in ("root", "split", "columns", "labels"))]):
        return demonstration.plan(options)
    if not all(given):
        raise InputError("give --before, --after and --data together, or none of them for the demonstration")
    item = ArchitectureConfig(before=asked["before"], after=list(asked["afters"]))
    return make_plan([item], data, options)


def _regions(asked: dict[str, Any]) -> RegionFiles:
    from harness.images.regions import RegionFiles, parse_masks

    return RegionFiles(parse_masks(asked["masks"]), asked["boxes"])


_NOT_FROM = (
    "demo",
    "before",
    "afters",
    "checkpoints",
    "data",
    "root",
    "split",
    "columns",
    "labels",
    "resume",
    "strict",
    "maps",
    "causal",
    "nulls",
)


def _is_given(value: Any) -> bool:
    """True for an option that was named; 0 is a value."""
    return value is not None and value is not False and value != ()


def _spelled(name: str) -> str:
    """An option as people write it, by the name of its parameter."""
    return spelled({"afters": "after", "nulls": "null", "json_file": "json"}.get(name, name))


def _refuse_beside(what: str, files: tuple[Location, ...], asked: dict[str, Any], names: tuple[str, ...]) -> None:
    given = [name for name in names if _is_given(asked[name])]
    strange = [str(file) for file in files] + [_spelled(name) for name in given]
    if strange:
        raise InputError(f"{strange[0]} cannot be given beside {what}, which says that itself; leave it out")
