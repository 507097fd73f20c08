"""A night as a recipe: open the model, measure the reference once, measure what is new, verify, write the state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort

from harness.bundle import format as bundles
from harness.bundle.verify import VerifyOptions, verify
from harness.common.errors import CannotEvaluateError, InputError, warn
from harness.common.progress import Progress, silent
from harness.common.provenance import bytes_digest, utc_now
from harness.common.storage import Location, write_bytes
from harness.images.containers import MAX_PIXELS
from harness.images.crash_isolation import crashing_images
from harness.images.dataset import Sample, content_digests, data_digest, read_dataset
from harness.images.dicom_headers import read_header
from harness.images.folders import is_dicomdir
from harness.images.regions import RegionFiles, Regions
from harness.models.session import Model
from harness.monitoring.history import LEAST_REFERENCE, History, history
from harness.monitoring.pictures import Measured, measure
from harness.monitoring.state import (
    REFERENCE,
    GoldenCases,
    Identity,
    Night,
    State,
    read_state,
    require_same,
    write_state,
)
from harness.results.file_names import BEGUN
from harness.results.part_files import Store
from harness.results.plan import StoredPlan, read_stored, restore
from harness.results.pseudonyms import Names, names_of
from harness.results.reader import labels_of, read_collected
from harness.results.schema import CheckpointResult, Evaluation, read_result, result_file
from harness.statistics.conformal import ALPHA

SAME_LOGITS = 0.01  # as far as logits of the reference may be from those that its evaluation stored
_THREADS = 4  # that read headers
_SHOWN = 3  # unreadable pictures that are named


@dataclass(frozen=True)
class Request:
    """What is asked for. `layer`, `method`: None for the first of the reference; `provider`: None for its provider.

    night: what to call it; None: today's date, UTC
    """

    model: Path
    reference: Location
    data: Location
    state: Path
    root: Location | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    regions: RegionFiles = field(default_factory=RegionFiles)
    bundle: Path | None = None
    digest: str | None = None
    layer: str | None = None
    method: str | None = None
    alpha: float = ALPHA
    provider: str | None = None
    threads: int = 1
    max_pixels: float = MAX_PIXELS
    night: str | None = None
    progress: Progress = silent


def monitor(request: Request) -> History:
    """Measure what is new in `request.data`, write the state, and return what it says.

    :raises InputError: another model, image rule, provider or reference than before, or bad input.
    :raises CannotEvaluateError: the provider is not there, none of the new pictures can be read, or the reference is
        too small.
    """
    content = read_result(request.reference)
    accepted = Evaluation.parse(content, result_file(request.reference))
    model = _open(request, accepted)
    request.state.parent.mkdir(parents=True, exist_ok=True)
    names = names_of(request.state.parent, show=False)
    identity = _identity(request, accepted, bytes_digest(content), model, names)
    state = read_state(request.state)
    if state is None:
        state = State(identity=identity, pictures=[])
        _measure_reference(request, state, model, names)
        write_state(request.state, state, None)
    require_same(request.state, state.identity, identity)
    before = state.model_copy(deep=True)
    _measure_new(request, state, model, names)
    if request.bundle is not None:
        state.golden = _verify(request, request.bundle, identity)
    if state != before:
        write_state(request.state, state, before)
    return history(state)


def _open(request: Request, accepted: Evaluation) -> Model:
    """The model, which has to be one that the accepted evaluation explained, by its provider."""
    asked = request.provider or str(accepted.environment.get("provider", "cpu"))
    there = accepted.environment.get("provider", asked)
    if asked != there:
        raise InputError(
            f"{request.reference}: was evaluated with the provider {there}, not {asked}; monitor with --provider "
            f"{there}, or evaluate anew with {asked}"
        )
    model = Model.open(request.model, asked, request.threads, at_once=True)
    _checkpoint(request, accepted, model.graph.digest)
    return model


def _checkpoint(request: Request, accepted: Evaluation, digest: str) -> CheckpointResult:
    found = [item for item in accepted.checkpoints if item.digest == digest]
    if not found:
        known = ", ".join(f"{item.key} {item.digest[:12]}" for item in accepted.checkpoints)
        raise InputError(
            f"{request.model}: sha256 {digest[:12]} is none of the checkpoints of {request.reference} ({known}); "
            "monitor the file that was evaluated, or evaluate this one"
        )
    return found[0]


def _identity(request: Request, accepted: Evaluation, reference: str, model: Model, names: Names) -> Identity:
    layer, method = request.layer or accepted.layers[0], request.method or accepted.methods[0]
    for what, asked, known in (("layer", layer, accepted.layers), ("method", method, accepted.methods)):
        if asked not in known:
            raise InputError(f"{request.reference}: has no {what} {asked!r}; it has: {', '.join(known)}")
    return Identity(
        model=model.graph.digest,
        image_rule=model.metadata.pixels,
        classes=model.metadata.classes,
        provider=request.provider or str(accepted.environment.get("provider", "cpu")),
        execution=list(model.providers),
        reference=reference,
        layer=layer,
        method=method,
        map_size=accepted.map_size,
        regions=[item.name for item in accepted.regions],
        alpha=request.alpha,
        patients=names.patient(""),
    )


def _measure_reference(request: Request, state: State, model: Model, names: Names) -> None:
    """Explain the pictures of the accepted evaluation, one per patient, by their predicted classes."""
    stored, samples = restore(read_stored(request.reference), request.reference)
    digests = content_digests(samples)
    missing = [sample.path for sample, digest in zip(samples, digests, strict=True) if not digest]
    if missing and len(missing) == len(samples):
        raise InputError(
            f"{missing[0]}: cannot be read; the first night measures the pictures of {request.reference}, so put them "
            "where they were when it was evaluated"
        )
    if data_digest(samples, digests) != stored.data_digest:
        raise InputError(
            f"{request.reference}: its pictures are not those that were evaluated (their digests differ); restore "
            "them, or evaluate anew"
        )
    regions = Regions(stored.plan.data.regions, samples)
    found = _measured(request, state, model, samples, regions)
    _require_same_logits(request, stored, samples, model, found)
    kept = [n for n in range(len(samples)) if n not in found.unreadable]
    _add(state, kept, _patients(stored.plan.data.source, samples, names), digests, found, REFERENCE)
    tested = sum(bool(picture.values) for picture in state.pictures)
    if tested < LEAST_REFERENCE:
        raise CannotEvaluateError(
            f"{request.reference}: holds readable pictures of {tested} patients, and {LEAST_REFERENCE} are the least "
            "that anything can be told from; evaluate on more"
        )


@contextmanager
def _begun(state: Path) -> Iterator[bool]:
    """Around the work on new pictures: whether the process ended over such work before, without a word.

    Then one of them may be what ended it, in a decoder, and would every night.
    """
    marker = state.with_name(state.name + BEGUN)
    died = marker.exists()
    write_bytes(marker, b"")
    try:
        yield died
    finally:
        marker.unlink(missing_ok=True)


def _measured(
    request: Request,
    state: State,
    model: Model,
    samples: Sequence[Sample],
    regions: Regions,
    known: Mapping[int, str] | None = None,
) -> Measured:
    return measure(
        model,
        samples,
        state.identity.watched,
        regions,
        known=known,
        threads=request.threads,
        max_pixels=request.max_pixels,
        progress=request.progress,
    )


def _require_same_logits(
    request: Request, stored: StoredPlan, samples: Sequence[Sample], model: Model, found: Measured
) -> None:
    """Refuse a machine on which the model answers otherwise than when it was accepted."""
    plan = stored.plan
    number = [item.graph.digest for item in plan.checkpoints].index(model.graph.digest)
    kept = read_collected(Store(request.reference, labels_of(stored)), plan, samples, len(plan.checkpoints))
    away = np.abs(found.logits - kept.logits[number]).max(axis=1)
    away = np.where(np.isfinite(away), away, 0.0)
    worst = int(away.argmax())
    if away[worst] > SAME_LOGITS:
        raise InputError(
            f"{request.model}: its logits for {samples[worst].name!r} are {away[worst]:.3g} away from those in "
            f"{request.reference}: this machine computes or decodes otherwise; evaluate on it first"
        )


def _measure_new(request: Request, state: State, model: Model, names: Names) -> None:
    """Add a night with the pictures that no earlier one saw; none where there are no such pictures."""
    multilabel = model.metadata.score_kind == "multilabel"
    samples = read_dataset(
        request.data, model.metadata.classes, request.root, request.split, multilabel, request.columns, warn
    )
    digests = content_digests(samples)
    seen, first = state.digests, dict[bytes, int]()
    for n, digest in enumerate(digests):
        if digest and digest.hex() not in seen:
            first.setdefault(digest, n)
    new = [first[digest] for digest in sorted(first)]  # an order that has nothing to do with names and classes
    lost = sum(not digest for digest in digests)
    if not new and not lost:
        return
    chosen = [samples[n] for n in new]
    regions = Regions(request.regions if new else RegionFiles(), chosen)
    _require_known_regions(request, state, regions)
    with _begun(request.state) as died:
        paths = [sample.path for sample in chosen]
        known = crashing_images(paths, request.max_pixels, model.metadata.rule) if died else {}
        found = _measured(request, state, model, chosen, regions, known)
    _tell_unreadable(chosen, found, lost)
    kept = [n for n in range(len(chosen)) if n not in found.unreadable]
    if not kept:
        raise CannotEvaluateError(f"{request.data}: none of its {len(new) + lost} new pictures can be read")
    state.nights.append(_night(request, len(samples), len(samples) - len(new) - lost, lost + len(found.unreadable)))
    patients = _patients(request.data, chosen, names)
    _add(state, kept, patients, [digests[n] for n in new], found, len(state.nights) - 1)


def _night(request: Request, given: int, seen: int, unreadable: int) -> Night:
    time = utc_now()
    return Night(
        night=request.night or time.partition("T")[0],
        time=time,
        given=given,
        seen=seen,
        unreadable=unreadable,
        runtime=ort.__version__,
    )


def _require_known_regions(request: Request, state: State, regions: Regions) -> None:
    known = state.identity.regions
    strange = [name for name in regions.names if name not in known]
    if strange:
        raise InputError(
            f"{request.reference}: was evaluated without a region {strange[0]!r} (it has: {', '.join(known) or 'none'}"
            "); evaluate with it, or leave it out"
        )


def _add(
    state: State,
    rows: Sequence[int],
    patients_of: Sequence[str | None],
    digests: Sequence[bytes],
    found: Measured,
    night: int,
) -> None:
    """Add readable pictures to a night: with their values where no other picture of the patient has them."""
    order = sorted(rows, key=lambda n: digests[n])
    patients = [patients_of[n] for n in order]
    tested, values = state.patients, found.values[order].copy()
    for place, patient in enumerate(patients):
        if patient is not None and patient in tested:
            values[place] = np.nan
        elif patient is not None:
            tested.add(patient)
    unique = {digests[n].hex(): place for place, n in reversed([*enumerate(order)])}
    places = sorted(unique.values())
    state.add(
        [digests[order[place]].hex() for place in places], [patients[place] for place in places], values[places], night
    )


def _patients(data: Location, samples: Sequence[Sample], names: Names) -> list[str | None]:
    """Keyed hashes of the patients; None where none is known: the picture counts as a patient of its own.

    A manifest names them. For a folder the headers of its DICOM files do: the hashes that `read_dataset` makes of these
    hold for one data set, and would not know a patient again the next night.
    """
    if not (data.is_dir() or is_dicomdir(data)):
        found = ["" if sample.group == sample.name else sample.group for sample in samples]
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            headers = list(pool.map(lambda sample: read_header(sample.path), samples))
        found = ["" if header is None else header.patient or header.study for header in headers]
    return [names.patient(name) if name else None for name in found]


def _tell_unreadable(samples: Sequence[Sample], found: Measured, lost: int) -> None:
    """Name some of the pictures that could not be read; the next night tries them again."""
    for sentence in list(found.unreadable.values())[:_SHOWN]:
        warn(sentence)
    count = len(found.unreadable) + lost
    if count:
        warn(f"{count} of {len(samples) + lost} new pictures cannot be read; the next night tries them again")


def _verify(request: Request, bundle: Path, identity: Identity) -> GoldenCases:
    """Golden cases of the same model, on the same provider.

    :raises InputError: no bundle, or one of another model.
    """
    manifest, _ = bundles.read_manifest(bundle)
    packed = next((item.sha256 for item in manifest.files if item.path == bundles.MODEL), "")
    if packed != identity.model:
        raise InputError(
            f"{bundle}: holds another model (sha256 {packed[:12]}) than the one that is monitored "
            f"({identity.model[:12]}); pack that one"
        )
    found = verify(bundle, request.digest, VerifyOptions(provider=identity.provider, threads=request.threads))
    return GoldenCases(
        manifest_digest=found.digest, passed=found.passed, authenticated=found.authenticated, problem=found.problem
    )
