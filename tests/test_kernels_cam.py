"""The CAM reductions against the papers' equations written out, and their undefined cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.cam import cam, cams, conditioning
from kernels.catalogue import METHODS, cam_method, of_one_pass
from kernels.reasons import Reason


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def gradcam(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    return relu(sum(g.mean() * a for a, g in zip(A, G, strict=True)))


def gradcam_plus_plus(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Equation 19 with its second and third derivatives of Y = exp(S): Y g^2 and Y g^3; Y cancels."""
    total = np.zeros(A.shape[1:])
    for a, g in zip(A, G, strict=True):
        denominator = 2 * g**2 + a.sum() * g**3
        alpha = np.divide(g**2, denominator, out=np.zeros_like(g), where=denominator != 0)
        total += (alpha * relu(g)).sum() * a
    return relu(total)


def gradcam_plus_plus_mean(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Xplique's GradCAMPP: alpha = g^2 / (2 g^2 + g^3 mean(A)), w = mean(alpha relu(g)); where g = 0, alpha = 0."""
    total = np.zeros(A.shape[1:])
    for a, g in zip(A, G, strict=True):
        denominator = 2 * g**2 + g**3 * a.mean()
        denominator = denominator + (denominator == 0) * 1e-4
        total += (g**2 / denominator * relu(g)).mean() * a
    return relu(total)


def layercam(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    return relu(sum(relu(g) * a for a, g in zip(A, G, strict=True)))


def hirescam(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    return relu(sum(g * a for a, g in zip(A, G, strict=True)))


def xgradcam(A: np.ndarray, G: np.ndarray) -> np.ndarray:
    """Fu 2020: w_k = sum_ij (A_k,ij / sum A_k) G_k,ij."""
    return relu(sum((a / a.sum() * g).sum() * a for a, g in zip(A, G, strict=True) if a.sum() != 0))


def eigencam(A: np.ndarray, _G: np.ndarray) -> np.ndarray:
    """The projection of A (P, C) onto its first principal direction, not centred, with a positive sum."""
    left, values, _ = np.linalg.svd(A.reshape(len(A), -1).T, full_matrices=False)
    projection = left[:, 0] * values[0]
    return relu(projection * np.sign(projection.sum())).reshape(A.shape[1:])


ONE_PASS = of_one_pass(METHODS)
LITERAL = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "gradcam++-mean": gradcam_plus_plus_mean,
    "layercam": layercam,
    "hirescam": hirescam,
    "xgradcam": xgradcam,
    "eigencam": eigencam,
    "input-x-gradient": hirescam,
}


def tensors(count: int = 3, channels: int = 13, size: tuple[int, int] = (5, 7)) -> tuple[np.ndarray, np.ndarray]:
    """Rectified activations, with channels that are zero everywhere, and gradients of both signs."""
    random = np.random.default_rng(3)
    A = relu(random.normal(size=(count, channels, *size))).astype(np.float32)
    A[:, 4] = 0
    return A, random.normal(size=A.shape).astype(np.float32)


@pytest.mark.parametrize("method", ONE_PASS)
def test_equals_the_equation_of_its_paper(method: str) -> None:
    A, G = tensors()
    maps, reasons = cam(method, A, G)
    assert maps.dtype == np.float32
    assert reasons.dtype == np.uint8
    assert not reasons.any()
    for n in range(len(A)):
        expected = LITERAL[method](A[n].astype(float), G[n].astype(float))
        assert maps[n] == pytest.approx(expected, rel=1e-6, abs=1e-6 * expected.max())  # float32 output


def test_registry_and_literals_cover_each_other() -> None:
    assert set(ONE_PASS) == LITERAL.keys()
    assert all(method.equation and method.source for method in METHODS.values())


def test_methods_coincide_where_the_gradient_is_constant() -> None:
    """After global average pooling and one dense layer G_k is one number, and three methods are one."""
    A, _ = tensors()
    G = np.broadcast_to(np.linspace(-1, 1, A.shape[1], dtype=np.float32)[None, :, None, None], A.shape)
    plain = cam("gradcam", A, G)[0]
    for method in ("hirescam", "xgradcam"):
        assert cam(method, A, G)[0] == pytest.approx(plain, rel=1e-5, abs=1e-6)


def test_hirescam_is_layercam_for_positive_gradients() -> None:
    A, G = tensors()
    assert np.array_equal(cam("hirescam", A, abs(G))[0], cam("layercam", A, abs(G))[0])


@pytest.mark.parametrize("method", [name for name in ONE_PASS if METHODS[name].paradigm == "gradient"])
def test_zero_gradients_give_an_empty_but_defined_map(method: str) -> None:
    A, G = tensors()
    maps, reasons = cam(method, A, 0 * G)
    assert not maps.any()
    assert not reasons.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ONE_PASS)
@pytest.mark.parametrize("where", [0, 1])
def test_non_finite_input_makes_the_map_undefined(method: str, bad: float, where: int) -> None:
    pair = tensors()
    pair[where][1, 4, 2, 3] = bad  # in the channel of zeros, where relu or a product could hide it
    maps, reasons = cam(method, *pair)
    assert reasons.tolist() == [0, Reason.NON_FINITE, 0]
    assert np.isnan(maps[1]).all()
    assert np.isfinite(maps[[0, 2]]).all()


def test_overflow_is_not_finite_either() -> None:
    A, G = tensors()
    maps, reasons = cam("hirescam", A * np.float32(1e30), G * np.float32(1e30))
    assert (reasons == Reason.NON_FINITE).all()
    assert np.isnan(maps).all()


def singular_tensors(singular: int, of: int) -> tuple[np.ndarray, np.ndarray]:
    """One channel with sum(A) = -2 and `of` positive gradients: 1 is singular (2 - 2 G = 0), 0.5 is not."""
    A, G = np.zeros((1, 1, 20, 20), np.float32), np.zeros((1, 1, 20, 20), np.float32)
    A[0, 0, 0, 0] = -2
    G.reshape(-1)[:of] = 0.5
    G.reshape(-1)[:singular] = 1
    return A, G


@pytest.mark.parametrize(("singular", "reason"), [(2, Reason.DEFINED), (3, Reason.SINGULAR_ALPHA)])
def test_singular_weights_are_left_out_up_to_one_percent(singular: int, reason: Reason) -> None:
    maps, reasons = cam("gradcam++", *singular_tensors(singular, of=200))
    assert reasons[0] == reason
    assert np.isnan(maps).all() == (reason != Reason.DEFINED)


def test_singular_gradients_do_not_touch_other_methods() -> None:
    A, G = singular_tensors(100, of=200)
    for method in set(ONE_PASS) - {"gradcam++"}:  # the mean of A is -1 / 200: its denominators stay at 2
        assert cam(method, A, G)[1][0] == Reason.DEFINED


def literal_conditioning(A: np.ndarray, G: np.ndarray, reduced) -> float:
    """Walk through every element: what it weighs, and whether its denominator is below 1."""
    ill = total = 0.0
    for a, g in zip(A.astype(float), G.astype(float), strict=True):
        for element in g.ravel():
            denominator = 2 + max(element, 0) * reduced(a)
            if element > 0 and denominator > 1e-6:
                total += element / denominator
                ill += element / denominator * (denominator < 1)
    return ill / total


@pytest.mark.parametrize(("method", "reduced"), [("gradcam++", np.sum), ("gradcam++-mean", np.mean)])
@pytest.mark.parametrize("threads", [1, 2])
def test_conditioning_is_the_weight_of_small_denominators(method: str, reduced, threads: int) -> None:
    random = np.random.default_rng(5)
    A, G = random.normal(size=(2, 3, 4, 5, 5)).astype(np.float32)  # activations of both signs, as before a ReLU
    found = conditioning(method, 3 * A, G, threads)
    expected = [literal_conditioning(3 * a, g, reduced) for a, g in zip(A, G, strict=True)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert max(expected) > 0.1


def test_conditioning_of_well_behaved_layers_is_zero_and_of_what_is_not_finite_unknown() -> None:
    A, G = tensors()
    G[2, 0, 0, 0] = np.nan
    for method in ("gradcam++", "gradcam++-mean"):  # rectified activations: no denominator is below 2
        assert np.array_equal(conditioning(method, A, G), [0, 0, np.nan], equal_nan=True)
        assert conditioning(method, A[:1], -abs(G[:1])).tolist() == [0]
    assert np.isnan(conditioning("layercam", A, G)).all()


def without_small_denominators(A: np.ndarray, G: np.ndarray, reduced) -> np.ndarray:
    """Grad-CAM++ whose cut-off of the denominators is 1 in place of 1e-6."""
    total = np.zeros(A.shape[1:])
    for a, g in zip(A.astype(float), relu(G.astype(float)), strict=True):
        denominator = 2 + g * reduced(a)
        kept = denominator >= 1
        total += reduced(np.where(kept, g / np.where(kept, denominator, 1), 0)) * a
    return relu(total)


def test_one_small_denominator_decides_a_map_of_the_sum_and_not_of_the_mean() -> None:
    """Channel 0 sums to -10, and 2 - 10 * 0.195 = 0.05; by the mean it is 2 - 0.2 * 0.195."""
    A = relu(np.random.default_rng(5).normal(size=(1, 16, 7, 7))).astype(np.float32)
    G = np.full_like(A, 0.01)
    A[0, 0] *= -10 / A[0, 0].sum()
    G[0, 0, 0, 0] = 0.195
    assert conditioning("gradcam++-mean", A, G).tolist() == [0]
    assert 0.3 < conditioning("gradcam++", A, G)[0] < 0.9
    mean, total = cam("gradcam++-mean", A, G)[0][0], cam("gradcam++", A, G)[0][0]
    assert mean == pytest.approx(without_small_denominators(A[0], G[0], np.mean), rel=1e-5, abs=1e-6)
    assert abs(total - without_small_denominators(A[0], G[0], np.sum)).sum() > 0.1 * total.sum() > 0


def test_channel_without_mass_has_no_weight_in_xgradcam() -> None:
    A = np.array([1.0, -1.0, 0.0, 0.0], np.float32).reshape(1, 1, 2, 2)
    maps, reasons = cam("xgradcam", A, np.ones_like(A))
    assert not maps.any()
    assert not reasons.any()


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float32, (2, 2, 3, 4, 5), elements=st.floats(-10, 10, width=32)),
    st.sampled_from(ONE_PASS),
    st.integers(1, 3),
)
def test_batch_is_its_images_whatever_the_threads(pair: np.ndarray, method: str, threads: int) -> None:
    A, G = pair
    maps, reasons = cam(method, A, G, threads)
    singles = [cam(method, A[n : n + 1], G[n : n + 1]) for n in range(2)]
    assert np.array_equal(maps, np.concatenate([m for m, _ in singles]), equal_nan=True)
    assert np.array_equal(reasons, np.concatenate([r for _, r in singles]))
    assert (np.isnan(maps) | (maps >= 0)).all()


def test_several_methods_at_once_equal_each_alone() -> None:
    A, G = tensors()
    for method, (maps, reasons) in cams(ONE_PASS, A, G, threads=2).items():
        assert np.array_equal(maps, cam(method, A, G)[0])
        assert np.array_equal(reasons, cam(method, A, G)[1])


def test_form_of_the_arrays_changes_no_bit() -> None:
    A, G = tensors()
    plain = cam("layercam", A, G)[0]
    frozen = A.copy()
    frozen.flags.writeable = False
    channels_last = np.ascontiguousarray(A.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for form in (A.astype(np.float64), np.asfortranarray(A), frozen, channels_last, A.astype(">f4")):
        assert np.array_equal(cam("layercam", form, G)[0], plain)


def test_refusals() -> None:
    A, G = tensors()
    with pytest.raises(ValueError, match="unknown CAM method 'grad-cam'; did you mean gradcam"):
        cam("grad-cam", A, G)
    with pytest.raises(ValueError, match=r"activations has the shape .+ they must be equal"):
        cam("gradcam", A, G[:2])
    with pytest.raises(ValueError, match=r"activations must have the shape \(N, C, h, w\)"):
        cam("gradcam", A[0], G[0])
    with pytest.raises(TypeError, match="gradients must hold real numbers"):
        cam("gradcam", A, G.astype(complex))
    assert cam_method("xgradcam").name == "xgradcam"


@pytest.mark.parametrize("method", ONE_PASS)
@pytest.mark.parametrize("gradient", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("activation", [1.0, 0.0, -1.0])
def test_a_gradient_that_is_not_finite_never_hides(method: str, gradient: float, activation: float) -> None:
    activations, gradients = np.ones((1, 2, 2, 2), np.float32), np.ones((1, 2, 2, 2), np.float32)
    activations[0, 0] = activation
    gradients[0, 0, 0, 0] = gradient
    maps, reasons = cam(method, activations, gradients)
    assert reasons.tolist() == [Reason.NON_FINITE]
    assert np.isnan(maps).all()


def test_eigencam_is_the_same_for_every_class_and_of_either_sign_of_the_activations() -> None:
    A, G = tensors()
    assert np.array_equal(cam("eigencam", A, G)[0], cam("eigencam", A, -G)[0])
    np.testing.assert_allclose(cam("eigencam", -A, G)[0], cam("eigencam", A, G)[0], rtol=1e-6)


def test_eigencam_of_nothing_is_an_empty_map() -> None:
    A = np.zeros((1, 3, 2, 2), np.float32)
    maps, reasons = cam("eigencam", A, A)
    assert not maps.any()
    assert not reasons.any()


def test_a_method_of_several_passes_is_no_function_of_both_alone() -> None:
    A, G = tensors()
    with pytest.raises(ValueError, match="ablation is no function of activations and gradients alone: it takes h w"):
        cam("ablation", A, G)
