"""Opening an exported graph: what it says about itself, and one call that explains a batch of images."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime as ort

from harness.common.errors import CannotEvaluateError, InputError
from harness.common.formatting import one_line
from harness.common.provenance import bytes_digest
from harness.common.storage import Location
from harness.images.containers import MAX_PIXELS
from harness.images.loading import load_view
from harness.images.notices import Noticed
from harness.images.view import View
from harness.models import providers
from harness.models.metadata import PICTURE, Graph, GraphMetadata, metadata_of, read_graph_file
from harness.models.parts import part_of


@dataclass(frozen=True)
class Explanation:
    """What one call returns. `layers` maps a CAM layer, as it was asked for, to (A, G), both (N, C, h, w).

    `maps`: (layer, method) -> map (N, h, w), where the graph was asked for those instead.
    """

    logits: np.ndarray  # (N, K)
    layers: dict[str, tuple[np.ndarray, np.ndarray]]
    maps: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)


FEW = 4  # pictures per call where every thread makes calls of its own: more are no faster,
AT_A_TIME = 64  # nor are fewer much slower, where so many threads would hold as many activations
MANY = 32  # pictures for the only call at a time


class BusyTime:
    """Seconds during which one thread or more were inside."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._since = 0.0
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Until now."""
        with self._lock:
            return self._before + (time.perf_counter() - self._since if self._inside else 0.0)

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._since = time.perf_counter()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before += time.perf_counter() - self._since


Part = tuple[tuple[str, ...], str | None]  # outputs, and activations that become an input (`harness.models.parts`)


class Model:
    """A graph in an ONNX Runtime session; several threads may call it at the same time.

    `bound`: calls go through IO binding, so that an accelerator keeps what is not asked for.
    `calls`: how many at a time make the most of it, of `batch` pictures each.
    """

    def __init__(
        self,
        graph: Graph,
        session: ort.InferenceSession,
        bound: bool = False,
        open_part: Callable[[Part], ort.InferenceSession] | None = None,
        calls: int = 1,
        batch: int = MANY,
    ) -> None:
        self.graph = graph
        self.metadata = graph.metadata
        self.bound = bound
        self.calls = calls
        self.batch = batch
        self._session = session
        self._open_part = open_part
        self._parts: dict[Part, ort.InferenceSession] = {}
        self._opening = Lock()
        self._busy = BusyTime()

    @classmethod
    def open(
        cls, path: Location, provider: str = "cpu", threads: int = 1, level: str = "all", at_once: bool = False
    ) -> Model:
        """Load a graph that `python -m export` wrote.

        :param at_once: on the CPU each thread makes calls of its own, since threads that share one wait for each other:
            MobileNetV2 0.35 does 1.5, DenseNet201 1.1 times as many images per second on two threads; the same bits.
        :param level: ONNX Runtime's graph optimisation, one of `harness.models.providers.LEVELS`.
        :raises InputError: as `Graph.read`.
        :raises CannotEvaluateError: the provider is not available.
        """
        return cls.load(path, read_graph_file(path), provider, threads, level, at_once)

    @classmethod
    def load(
        cls,
        path: Location,
        content: bytes,
        provider: str = "cpu",
        threads: int = 1,
        level: str = "all",
        at_once: bool = False,
    ) -> Model:
        """`open` for bytes that have been read already; `path` names them in messages."""
        on_accelerator = providers.accelerated(provider)
        shared = at_once and not on_accelerator
        calls, batch = (threads, max(1, min(FEW, AT_A_TIME // threads))) if shared else (1, MANY)
        threads //= calls
        session = providers.session(path, content, provider, threads, level)
        metadata = metadata_of(path, _properties(path, session))
        _require_own_size(path, metadata, session)

        def open_part(part: Part) -> ort.InferenceSession:
            return providers.session(path, part_of(path, content, *part), provider, threads, level)

        return cls(Graph(path, metadata, bytes_digest(content)), session, on_accelerator, open_part, calls, batch)

    def view(self, path: Location, *, max_pixels: float = MAX_PIXELS, notice: Noticed | None = None) -> View:
        """A file as the network sees it. Raises as `load_view`."""
        rule, size = self.metadata.rule, self.metadata.input_size
        return load_view(path, rule, size, max_pixels=max_pixels, notice=notice)

    @property
    def seconds(self) -> float:
        """Spent inside of ONNX Runtime until now, whatever the number of calls at a time."""
        return self._busy.seconds

    @property
    def providers(self) -> dict[str, Any]:
        """The providers really in use, with their options."""
        return self._session.get_provider_options()

    def explain(
        self, batch: np.ndarray, target: np.ndarray, layers: Sequence[str], maps: Sequence[str] = ()
    ) -> Explanation:
        """One forward and backward pass.

        :param batch: (N, 3, H, W) float32, grey levels 0..255.
        :param target: (N,) int64, the class to explain, -1 the predicted one.
        :param layers: CAM layers by role or name.
        :param maps: CAM methods whose maps the graph makes itself; then activations and gradients stay where they are.
        :raises InputError: a target outside -1..K-1, a layer or a map that the graph has not.
        """
        self._check_target(target)
        wanted = {name: self.graph.layer(name) for name in layers}
        if maps:
            names = {(label, method): self.graph.map_of(label, method) for label in layers for method in maps}
            found = self._run(["logits", *names.values()], batch, target)
            return Explanation(found["logits"], {}, {key: found[name] for key, name in names.items()})
        outputs = [name for layer in wanted.values() for name in (layer.activations, layer.gradients)]
        found = self._run(["logits", *outputs], batch, target)
        pairs = {name: (found[layer.activations], found[layer.gradients]) for name, layer in wanted.items()}
        return Explanation(found["logits"], pairs)

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Logits (N, K) of pictures (N, 3, H, W), by the forward pass alone."""
        return self._call_part((("logits",), None), {"image": np.ascontiguousarray(batch)})["logits"]

    def behind(
        self, layer: str, points: np.ndarray, target: np.ndarray, batch: np.ndarray, gradients: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits (n, K), and gradients (n, C, h, w) where asked for, if a layer's activations were `points`.

        Only what lies behind the layer runs, and backward only for gradients. `batch` (n, 3, H, W): the pictures, which
        it reads too where the layer is not all that the logits depend on.
        """
        outputs = self.graph.layer(layer)
        feeds = {"image": batch, "target": np.ascontiguousarray(target, np.int64), outputs.activations: points}
        names = ("logits", outputs.gradients) if gradients else ("logits",)
        found = self._call_part((names, outputs.activations), feeds)
        return found["logits"], found.get(outputs.gradients)

    def _call_part(self, part: Part, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a part of the graph by name, which reads what it needs of `feeds`."""
        with self._opening:
            if part not in self._parts:
                assert self._open_part is not None
                self._parts[part] = self._open_part(part)
        session = self._parts[part]
        wanted = {item.name for item in session.get_inputs()}
        return self._call(session, list(part[0]), {name: feeds[name] for name in feeds if name in wanted})

    def _run(self, names: list[str], batch: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name; those that are not named are computed, too, but never leave an accelerator.

        Not so the gradients at the picture: a graph that has them is cut where nothing of them is asked for, since the
        way down to the picture costs as much as a backward pass through the whole network.
        """
        feeds = {"image": np.ascontiguousarray(batch), "target": np.ascontiguousarray(target, np.int64)}
        picture = self.graph.layers.get(PICTURE)
        if picture is not None and not {picture.gradients, *picture.maps.values()}.intersection(names):
            return self._call_part((tuple(names), None), feeds)
        return self._call(self._session, names, feeds)

    def _call(
        self, session: ort.InferenceSession, names: list[str], feeds: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        try:
            with self._busy:
                values = _run_bound(session, names, feeds) if self.bound else session.run(names, feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            images = len(next(iter(feeds.values())))
            raise CannotEvaluateError(
                f"{self.graph.path}: ONNX Runtime cannot run it on {images} images ({_reason(error)}); "
                "it may ask for more memory than there is, or be damaged: try --batch 1 and fewer threads, or export "
                "it again"
            ) from error
        return dict(zip(names, values, strict=True))

    def _check_target(self, target: np.ndarray) -> None:
        classes = self.metadata.classes
        wrong = target[(target < -1) | (target >= len(classes))]
        if wrong.size:
            raise InputError(f"target {wrong[0]} is out of range; {self.graph.path} has classes 0..{len(classes) - 1}")


def _run_bound(session: ort.InferenceSession, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()


def _properties(path: Location, session: ort.InferenceSession) -> dict[str, str]:
    try:
        return session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError:
        raise InputError(f"{path}: its metadata are no text in UTF-8; export it again") from None


def _require_own_size(path: Location, metadata: GraphMetadata, session: ort.InferenceSession) -> None:
    """Refuse metadata that would have pictures brought to another size than the graph takes, a vast one for example."""
    shape: list[Any] = next((item.shape for item in session.get_inputs() if item.name == "image"), [])
    sizes = zip(shape[2:], metadata.input_size, strict=False)
    if len(shape) != 4 or any(isinstance(own, int) and own != said for own, said in sizes):
        said = " x ".join(map(str, metadata.input_size))
        raise InputError(
            f"{path}: its metadata say that it takes pictures of {said}, its input {shape}; export it again"
        )


def _reason(error: Exception) -> str:
    """ONNX Runtime's message, without the line and function of its own source code that stand before it."""
    text = one_line(str(error).rpartition("Status Message: ")[2].strip())
    return re.sub(r"^\S+\.(?:cc|cu|h):\d+ .*?\) ", "", text)[:200] or type(error).__name__
