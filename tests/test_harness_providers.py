"""Accelerators: what is asked for, what is missing, IO binding, batch sizes, maps of the graph. The CPU stands in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cli import cli
from harness.common.errors import CannotEvaluateError, InputError
from harness.evaluation import batch_size, jobs
from harness.evaluation.explain import Batching, Request
from harness.evaluation.study_file import ArchitectureConfig, make_plan
from harness.images.loading import channels_first
from harness.models import providers
from harness.models.session import Model
from harness.results.options import Options
from harness.results.part_files import Store
from harness.results.plan import Data
from harness.results.schema import Evaluation
from kernels.cam import cams
from kernels.reasons import Reason
from tests import tiny_graphs

METHODS = ("layercam", "gradcam++", "gradcam")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("graphs")
    return [tiny_graphs.write_graph(folder / f"{n}.onnx", seed, methods=METHODS) for seed, n in enumerate(("a", "b"))]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_graphs.write_images(tmp_path_factory.mktemp("images"))


def greys(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, 32, 32)).astype(np.float32)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("cpu", [("cpu", False)]),
        ("cuda", [("cuda", False)]),
        ("cuda+tf32", [("cuda", True)]),
        ("tensorrt,cuda, cpu", [("tensorrt", False), ("cuda", False), ("cpu", False)]),
    ],
)
def test_providers_keep_the_order_that_was_asked_for(asked: str, expected: list) -> None:
    assert providers.parse(asked) == expected
    assert providers.accelerated(asked) == (expected[0][0] != "cpu")


@pytest.mark.parametrize("asked", ["gpu", "", "cpu+tf32", "cuda,", "cuda:0", "cuda+fp16"])
def test_an_unknown_provider_is_refused(asked: str) -> None:
    with pytest.raises(InputError, match=r"unknown provider '.*'; choose from cpu, cuda, tensorrt, cuda\+tf32"):
        providers.parse(asked)


def test_a_provider_is_named_once() -> None:
    with pytest.raises(InputError, match=r"--provider cuda,cuda\+tf32 names a provider twice"):
        providers.parse("cuda,cuda+tf32")


def test_tf32_is_allowed_to_all_accelerators_or_none() -> None:
    with pytest.raises(InputError, match=r"allows TF32 to one accelerator only; give \+tf32 to all of them or none"):
        providers.parse("tensorrt,cuda+tf32")
    assert providers.parse("tensorrt+tf32,cuda+tf32,cpu")[2] == ("cpu", False)


def test_what_an_accelerator_cannot_load_is_no_bad_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(providers.ort, "InferenceSession", full)
    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: list(providers.PROVIDERS.values()))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(CannotEvaluateError, match="provider 'cuda' cannot load it: CUDA failure 2: out of memory"):
        providers.session(Path("x.onnx"), b"", "cuda", 1, "all")


class Session:
    """Records how ONNX Runtime is called; `starts` says which providers start."""

    def __init__(self, starts: list[str]) -> None:
        self.starts = starts

    def __call__(self, _content: bytes, _settings: Any, providers: list) -> Session:
        self.asked = providers
        return self

    def get_providers(self) -> list[str]:
        return self.starts


def opened(monkeypatch: pytest.MonkeyPatch, asked: str, starts: list[str]) -> Session:
    made = Session(starts)
    monkeypatch.setattr(providers.ort, "InferenceSession", made)
    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: list(providers.PROVIDERS.values()))
    assert providers.session(Path("x.onnx"), b"", asked, 1, "all") is made
    return made


def test_tf32_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    cuda = "CUDAExecutionProvider"
    asked = opened(monkeypatch, "cuda", [cuda]).asked
    assert asked == [(cuda, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})]
    assert providers.os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert opened(monkeypatch, "cuda+tf32", [cuda]).asked[0][1]["use_tf32"] == "1"
    assert "NVIDIA_TF32_OVERRIDE" not in providers.os.environ


def test_onnx_runtime_gets_the_providers_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    asked = opened(monkeypatch, "tensorrt,cuda", ["TensorrtExecutionProvider", "CUDAExecutionProvider"]).asked
    assert [name for name, _ in asked] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]


def test_falling_back_is_a_refusal_that_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setattr(providers, "_loads", lambda library: library != "libcudnn.so.9")
    with pytest.raises(CannotEvaluateError) as refused:
        opened(monkeypatch, "cuda", ["CPUExecutionProvider"])
    assert str(refused.value) == (
        "provider 'cuda' was asked for, but ONNX Runtime fell back to CPUExecutionProvider: cuDNN 9 is missing "
        "(libcudnn.so.9); pip install nvidia-cudnn-cu13 (see `evidence-drift env`)"
    )


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        ("libcuda.so.1", "no NVIDIA driver is loaded"),
        ("libcudart.so.13", "the CUDA 13 runtime is missing"),
        ("libcublas.so.13", "cuBLAS for CUDA 13 is missing"),
        ("libcudnn.so.9", "cuDNN 9 is missing"),
    ],
)
def test_each_missing_library_is_a_sentence(absent: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: list(providers.PROVIDERS.values()))
    (sentence,) = providers.missing("cuda", lambda library: library != absent)
    assert sentence.startswith(words)
    assert "install" in sentence
    assert providers.missing("cuda", lambda _: True) == []
    assert providers.missing("cpu", lambda _: False) == []


def test_a_build_without_cuda_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "was built without CUDAExecutionProvider; pip install onnxruntime-gpu" in providers.state("cuda")
    assert providers.state("cpu") == "ready"


def test_the_gpu_is_named_by_its_driver(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\n")
    assert providers.gpu_model(tmp_path) == "NVIDIA H200"
    assert providers.gpu_model(tmp_path / "nothing") == ""


def test_io_binding_changes_no_number(graphs: list[Path]) -> None:
    plain, bound = Model.open(graphs[0]), Model.open(graphs[0])
    bound.bound = True
    images, target = channels_first(greys()), np.array([0, 1, 1, 0, -1])
    a, b = (model.explain(images, target, ["early", "late"]) for model in (plain, bound))
    np.testing.assert_array_equal(a.logits, b.logits)
    for layer in ("early", "late"):
        for one, other in zip(a.layers[layer], b.layers[layer], strict=True):
            np.testing.assert_array_equal(one, other)
    assert bound.seconds > 0


def test_only_maps_and_logits_leave_where_the_graph_makes_the_maps(graphs: list[Path]) -> None:
    model = Model.open(graphs[0])
    asked: list[list[str]] = []
    run = model._session.run
    model._session = type("Spy", (), {"run": lambda _, names, feeds: (asked.append(names), run(names, feeds))[1]})()
    found = model.explain(channels_first(greys()), np.full(5, 1), ["early"], METHODS)
    layer = model.graph.layer("early")
    assert asked == [["logits", *(layer.maps[method] for method in METHODS)]]
    assert found.layers == {}
    activations, gradients = (
        Model.open(graphs[0]).explain(channels_first(greys()), np.full(5, 1), ["early"]).layers["early"]
    )
    for method, (maps, _) in cams(METHODS, activations, gradients).items():
        np.testing.assert_allclose(found.maps["early", method], maps, rtol=1e-4, atol=1e-6)


def plan_of(graphs: list[Path], manifest: Path, **options: Any) -> Any:
    item = ArchitectureConfig(before=graphs[0], after=graphs[1])
    return make_plan([item], Data(manifest), Options(select="all", jitter=2, chance=0, map_size=(32, 32), **options))


@pytest.fixture(scope="module")
def asked(graphs: list[Path], manifest: Path) -> list[object]:
    """The arguments that name the graphs and their images."""
    files = ["--before", graphs[0], "--after", graphs[1], "--data", manifest]
    return [*files, "--select", "all", "--map-size", 32, "--chance", 3, "--jitter", 1]


@pytest.fixture(scope="module")
def by_kernels(asked: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result folder with maps of our kernels, to be read and copied, never changed."""
    out = tmp_path_factory.mktemp("kernels") / "out"
    with tiny_graphs.in_brief():
        tiny_graphs.evaluate(out, *asked)
    return out


def test_an_evaluation_by_maps_of_the_graph_finds_what_the_kernels_find(
    asked: list[object], by_kernels: Path, tmp_path: Path
) -> None:
    kernels = Evaluation.read(by_kernels)
    with tiny_graphs.in_brief():
        graph = tiny_graphs.evaluate(tmp_path / "graph", *asked, "--maps", "graph")
    assert (kernels.environment["maps"], graph.environment["maps"]) == ("kernels", "graph")
    for method in ("layercam", "gradcam++"):
        for name in ("iou_top20", "spearman", "centroid_shift"):
            mine, theirs = (tiny_graphs.metric(result, name, method) for result in (graph, kernels))
            assert mine.estimate.mean == pytest.approx(theirs.estimate.mean, abs=2e-3)


def test_a_run_is_not_resumed_with_other_maps(asked: list[object], by_kernels: Path, tmp_path: Path) -> None:
    out = shutil.copytree(by_kernels, tmp_path / "out")
    with pytest.raises(InputError, match="was begun with another options: maps"):
        tiny_graphs.evaluate(out, *asked, "--maps", "graph", "--resume")


def test_undefined_maps_of_the_graph_have_a_reason() -> None:
    from harness.models.attribution import _judged

    maps = np.ones((3, 2, 2), np.float32)
    maps[1, 0, 0] = np.nan
    made, reasons, conditioning = _judged("gradcam++", maps)
    assert np.isnan(conditioning).all()
    assert reasons.tolist() == [Reason.DEFINED, Reason.SINGULAR_ALPHA, Reason.DEFINED]
    assert np.isnan(made[1]).all()
    assert _judged("layercam", maps)[1].tolist() == [Reason.DEFINED, Reason.NON_FINITE, Reason.DEFINED]


def test_a_graph_without_fused_maps_is_refused(manifest: Path, tmp_path: Path) -> None:
    plain = [tiny_graphs.write_graph(tmp_path / f"{seed}.onnx", seed) for seed in range(2)]
    with pytest.raises(InputError, match=r"makes no layercam map of layer 'early' itself \(it makes: none\)"):
        plan_of(plain, manifest, maps="graph")


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([100, 190, 360, 370, 400, 500], 64),  # 128 images at once are no longer worth it
        ([100, 90], 16),
        ([100, 200, 400, 800, 1600, 3200], 512),
        ([100, 200, None], 32),  # 64 do not fit
    ],
)
def test_the_batch_grows_while_that_pays(rates: list, expected: int) -> None:
    by_count = dict(zip([16 * 2**n for n in range(len(rates))], rates, strict=True))

    def seconds(count: int) -> float:
        if by_count[count] is None:
            raise RuntimeError("Failed to allocate memory")
        return count / by_count[count]

    assert batch_size._search(seconds) == expected


def test_what_fails_with_the_smallest_batch_is_no_question_of_size() -> None:
    def seconds(_: int) -> float:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        batch_size._search(seconds)


def test_on_an_accelerator_the_batch_is_measured(
    graphs: list[Path], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(graphs, manifest)
    wanted = Request(plan.layers, plan.options, "all")
    monkeypatch.setattr(jobs, "accelerated", lambda _: True)
    monkeypatch.setattr(batch_size, "LARGEST", 32)
    for given, expected in ((None, (16, 32)), (5, (5,))):
        stage = jobs.Explaining(plan.checkpoints[0], Store(tmp_path), wanted, "cpu", Batching(batch=given))
        stage.prepare()
        assert stage.batching.batch in expected


def test_env_says_what_is_missing() -> None:
    from click.testing import CliRunner

    shown = CliRunner().invoke(cli, ["env"]).output
    assert "provider cpu" in shown
    assert "ready" in shown
    assert "provider tensorrt" in shown


def test_an_absent_gpu_ends_with_code_3_and_one_sentence(tmp_path: Path) -> None:
    if providers.state("cuda") == "ready":
        pytest.skip("there is a GPU")
    done = tiny_graphs.run(tmp_path, "evaluate", "--provider", "cuda", "--out", tmp_path / "out")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "provider 'cuda' was asked for, but" in done.stderr
    assert not (tmp_path / "out").exists()
