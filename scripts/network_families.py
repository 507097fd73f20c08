"""Which of other libraries' networks are exported: timm's and torchvision's, with random weights, against autograd.

    python -m scripts.network_families --rows rows.jsonl [NETWORK ...]

It needs `timm`, `torchvision` and `onnxscript` beside this project; TensorFlow must not be loaded. Every network is
tried in a process of its own and gives one line of `--rows`; networks that have one are not tried again. In the end
docs/networks.md is printed. What is compared is the gradient of the logit down to the picture, which goes through all
of the network; the layer that `--layer auto` takes is exported (and proved) beside it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from tabulate import tabulate

from harness.common.errors import EvidenceDriftError, run_command_line

TIMM = (
    "bat_resnext26ts botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_tiny coatnet_nano_rw_224 convformer_s18 "
    "convit_tiny convmixer_768_32 convnext_atto convnextv2_atto crossvit_tiny_240 cs3darknet_s cspresnet50 darknet17 "
    "davit_tiny deit_tiny_patch16_224 densenet121 dla46_c dm_nfnet_f0 dpn48b ecaresnet26t edgenext_xx_small "
    "efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientvit_b0 efficientvit_m0 ese_vovnet19b_dw "
    "eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 fbnetc_100 fbnetv3_b focalnet_tiny_srf gcresnet50t gcvit_xxtiny "
    "gernet_s ghostnet_050 ghostnetv2_100 ghostnetv3_050 gmlp_ti16_224 halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0 "
    "hiera_tiny_224 hrnet_w18_small iformer_s inception_next_atto inception_v3 inception_v4 lambda_resnet26t lcnet_050 "
    "legacy_seresnet18 legacy_xception levit_128s mambaout_femto maxvit_nano_rw_256 mixer_s32_224 mixnet_s mnasnet_050 "
    "mobilenet_edgetpu_100 mobilenetv1_100 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 "
    "mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small nf_regnet_b0 pit_ti_224 poolformer_s12 "
    "pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002 regnetz_005 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_26w_4s "
    "resmlp_12_224 resnest14d resnet18 resnetv2_18 resnext50_32x4d rexnet_100 selecsls42 semnasnet_075 sequencer2d_s "
    "seresnet18 shvit_s1 skresnet18 spnasnet_100 starnet_s1 swiftformer_xs swin_tiny_patch4_window7_224 "
    "swinv2_cr_tiny_ns_224 swinv2_tiny_window8_256 tf_efficientnetv2_b0 tiny_vit_5m_224 tinynet_e "
    "tnt_s_legacy_patch16_224 tresnet_m twins_pcpvt_small vgg11 visformer_tiny vit_relpos_small_patch16_224 "
    "vit_tiny_patch16_224 vitamin_small_224 volo_d1_224 xception41 xcit_nano_12_p16_224"
)
TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5 mobilenet_v2 "
    "mobilenet_v3_small regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vit_b_16"
)
NETWORKS = (*(f"timm/{name}" for name in TIMM.split()), *(f"torchvision/{name}" for name in TORCHVISION.split()))
CLASSES = 5
IMAGES = 4
LIMIT = 900  # seconds that a network may take
NEGLIGIBLE = 1e-3  # weights that start below it (zero heads, layer scales) would hide what is behind them
EQUAL = 1e-3  # relative L2 error of a gradient that counts as equal to autograd's
ROUNDING = 2  # or an error of so many times that of autograd itself, in float32 against float64: switched ReLUs

PAGE = """# Networks that can be exported

Written by `python -m scripts.network_families > docs/networks.md`: networks of timm and torchvision with random
weights, written by either exporter of PyTorch at their default size, then by
`python -m export onnx --layer auto --layer image`.
The gradient is that of the logits down to the picture, which goes through the whole network; errors are relative (L2),
logits over all pictures, gradients of the median one. The last column is what autograd's own float32 differs from its
float64.

Random weights with untrained BatchNorm statistics let the signal of some networks shrink by ten orders of magnitude
(GoogLeNet: 7e-12 before its last layer). Where a proof fails, the network is tried once more with the statistics of the
pictures."""
SWITCHED = ("network", "gradient, median picture", "closest picture", "autograd, float32 against float64")


def network(name: str, settled: bool = False) -> tuple[Any, tuple[int, int]]:
    """The network in evaluation mode with weights drawn from a fixed seed, and its (height, width).

    :param settled: BatchNorm statistics are those of `pictures`, as after a training; without them the signal of deep
        random networks can shrink by ten orders of magnitude.
    """
    import torch

    torch.manual_seed(0)
    library, _, kind = name.partition("/")
    if library == "timm":
        import timm

        model = timm.create_model(kind, pretrained=False, num_classes=CLASSES).eval()
        size = model.default_cfg["input_size"][1:]
    else:
        import torchvision

        extra = {"init_weights": True} if kind in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(kind, weights=None, num_classes=CLASSES, **extra).eval()
        size = (299, 299) if kind == "inception_v3" else (224, 224)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < NEGLIGIBLE:
                parameter.normal_(std=0.1)
        if settled:
            settle(model, torch.tensor(pictures(size)) / 255)
    return model, size


def settle(model: Any, batch: Any) -> None:
    """Give the BatchNorm layers of a network in evaluation mode the statistics of a batch."""
    import torch

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over batches
        layer.train()
    model(batch)
    model.eval()


def written_by_torch(model: Any, size: tuple[int, int], path: Path) -> str:
    """Write the model as ONNX with a free batch by either exporter of PyTorch; which one."""
    import torch

    image = torch.zeros(2, 3, *size)
    try:
        torch.onnx.export(
            model, (image,), str(path), dynamo=True, dynamic_shapes=({0: "batch"},), external_data=False, verbose=False
        )
    except Exception:  # whatever the newer exporter cannot do, the older one may
        axes = {"input": {0: "batch"}}
        torch.onnx.export(model, (image,), str(path), dynamo=False, input_names=["input"], dynamic_axes=axes)
        return "TorchScript"
    return "dynamo"


def gradients(model: Any, images: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K), and the gradient (N, 3, H, W) of the targets' logits by autograd, for grey levels 0..255."""
    import torch

    pixels = torch.tensor(images, dtype=next(model.parameters()).dtype, requires_grad=True)
    logits = model(pixels / 255)
    logits.gather(1, torch.tensor(targets)[:, None]).sum().backward()
    assert pixels.grad is not None
    return logits.detach().numpy(), pixels.grad.numpy()


def pictures(size: tuple[int, int]) -> np.ndarray:
    """(N, 3, H, W) smooth random grey pictures 0..255."""
    import cv2

    coarse = np.random.default_rng(0).uniform(0, 255, (IMAGES, 9, 9)).astype(np.float32)
    grey = np.stack([cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR) for image in coarse])
    return np.repeat(grey[:, None], 3, axis=1)


def tried_here(name: str, folder: Path) -> dict[str, Any]:
    """The row of one network; where its proof fails, beside what becomes of it with settled statistics."""
    row = compared(name, folder)
    if row["outcome"] == "refused" and "differs from its source" in row["why"]:
        row["settled"] = compared(name, folder, settled=True)
    return row


def compared(name: str, folder: Path, settled: bool = False) -> dict[str, Any]:
    """Export one network and compare it with autograd."""
    from export.sources.onnx import Preprocessing, export_onnx
    from export.write import Request
    from harness.models.session import Model

    model, size = network(name, settled)
    started = time.perf_counter()
    try:
        exporter = written_by_torch(model, size, folder / "m.onnx")
    except Exception as error:
        return {"network": name, "outcome": "not exported by PyTorch", "why": str(error).splitlines()[0][:200]}
    row: dict[str, Any] = {"network": name, "by": exporter, "torch_seconds": round(time.perf_counter() - started, 1)}
    started = time.perf_counter()
    try:
        export_onnx(folder / "m.onnx", Request(["auto", "image"], folder / "x.onnx"), Preprocessing(1 / 255))
    except EvidenceDriftError as error:
        return {**row, "outcome": "refused", "why": str(error).replace(f"{folder}/", "")}
    row["seconds"] = round(time.perf_counter() - started, 1)
    images, targets = pictures(size), np.arange(IMAGES) % CLASSES
    logits, expected = gradients(model, images, targets)
    graph = Model.open(folder / "x.onnx")
    auto = graph.metadata.layers[0]
    found = graph.explain(images, targets, [auto.label, "image"])
    shape = found.layers[auto.label][0].shape[1:]
    exact = gradients(model.double(), images, targets)[1]
    return {
        **row,
        "outcome": "exported",
        "layer": " x ".join(map(str, shape)),
        "logits": relative(found.logits, logits),
        "gradient": median_error(found.layers["image"][1], expected),
        "closest": min(map(relative, found.layers["image"][1], expected)),
        "rounding": median_error(expected, exact),
    }


def median_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 error of the median image, of (N, ...)."""
    return statistics.median(relative(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """|found - expected| / |expected|."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def tried(name: str) -> dict[str, Any]:
    """The row of one network, from a process of its own."""
    command = [sys.executable, "-m", "scripts.network_families", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"network": name, "outcome": "fault", "why": f"took more than {LIMIT} s"}
    last = done.stdout.strip().splitlines()[-1:]
    if done.returncode or not last:
        return {"network": name, "outcome": "fault", "why": done.stderr.strip().splitlines()[-1][:300]}
    return json.loads(last[0])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The page: what was exported, with its errors; what was refused, and with which sentence."""
    done = [row for row in rows if row["outcome"] == "exported"]
    cells = [
        (row["network"], row["by"], row["layer"], *(f"{row[name]:.0e}" for name in ("logits", "gradient", "rounding")))
        for row in done
    ]
    head = ("network", "exporter", "layer of `auto`", "logits", "gradient", "autograd, float32 against float64")
    switched = [
        (row["network"], *(f"{row[name]:.0e}" for name in ("gradient", "closest", "rounding")))
        for row in done
        if row["gradient"] > EQUAL
    ]
    refused = [
        (row["network"], row["outcome"], row["why"], settled_cell(row)) for row in rows if row["outcome"] != "exported"
    ]
    return "\n\n".join(
        [
            PAGE,
            summary(rows),
            tabulate(cells, head, tablefmt="github", disable_numparse=True),
            "Where it is further away, single rectifiers or maxima were decided otherwise on some of the pictures:",
            tabulate(switched, SWITCHED, tablefmt="github", disable_numparse=True),
            tabulate(refused, ("network", "outcome", "sentence", "with the pictures' statistics"), tablefmt="github"),
        ]
    )


def settled_cell(row: dict[str, Any]) -> str:
    """What became of a network whose BatchNorm layers had the statistics of the pictures."""
    found = row.get("settled")
    if not found:
        return ""
    if found["outcome"] != "exported":
        return f"{found['outcome']}: {found['why']}"
    return f"exported; gradient {found['gradient']:.0e}, autograd itself {found['rounding']:.0e}"


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """How many were exported, and how many gradients agree."""
    done = [row for row in rows if row["outcome"] == "exported"]
    offered = sum(row["outcome"] != "not exported by PyTorch" for row in rows)
    equal = sum(row["gradient"] <= EQUAL for row in done)
    rounded = sum(EQUAL < row["gradient"] <= ROUNDING * row["rounding"] for row in done)
    return (
        f"{len(done)} of {offered} networks that PyTorch exports are exported. The gradient down to the picture is "
        f"within {EQUAL:g} of autograd's in {equal} of them (relative L2, median of {IMAGES} pictures), and in "
        f"{rounded} more within {ROUNDING} times what autograd's own float32 differs from its float64."
    )


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--rows", type=click.Path(path_type=Path), default="network-families.jsonl", show_default=True)
@click.option("--one", hidden=True, help="Try this network here and print its row.")
def main(networks: tuple[str, ...], rows: Path, one: str | None) -> None:
    """Print the table of networks of timm and torchvision."""
    if one:
        warnings.simplefilter("ignore")
        with TemporaryDirectory() as folder:
            click.echo("\n" + json.dumps(tried_here(one, Path(folder))))
        return
    known = {row["network"]: row for row in map(json.loads, rows.read_text().splitlines())} if rows.exists() else {}
    for name in networks or NETWORKS:
        if name not in known:
            known[name] = tried(name)
            with rows.open("a") as file:
                file.write(json.dumps(known[name]) + "\n")
            click.echo(f"{name}: {known[name]['outcome']}", err=True)
    click.echo(table([known[name] for name in networks or NETWORKS]))


if __name__ == "__main__":
    run_command_line(main, "python -m scripts.network_families")
