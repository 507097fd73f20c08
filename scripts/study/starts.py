"""The networks of the study: an architecture and the weights that it starts from, each trained by one configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RUNS = Path("runs")
SEEDS = 3  # trainings of the second phase


@dataclass(frozen=True)
class Start:
    """One network of the study; `pretraining` is the configuration of the run that its first weights come from."""

    name: str  # as in scripts/study-*.toml
    weights: str  # where the weights come from, in words
    run: Path
    config: Path
    pretraining: Path | None = None

    @property
    def pretrained(self) -> Path | None:
        """The run of `pretraining`."""
        return RUNS / self.pretraining.stem if self.pretraining else None

    @property
    def exported(self) -> Path:
        """Folder whose `run.json` lists the checkpoints of both phases, all replicates, without pre-training."""
        return self.run / "exported"

    @property
    def epochs(self) -> Path:
        """Folder whose `run.json` lists the kept epochs of the second phase, seed 0, as if they were phases."""
        return self.run / "epochs"


def _from_phantoms(architecture: str) -> Start:
    name = architecture.lower()
    return Start(
        architecture,
        "drawn radiographs",
        RUNS / f"study-{name}",
        Path(f"scripts/study-{name}.toml"),
        Path(f"scripts/pretrain-{name}.toml"),
    )


PHOTOGRAPHS = Start(
    "InceptionV3-photographs",
    "photographs",
    RUNS / "study-inceptionv3-photographs",
    Path("scripts/study-inceptionv3-photographs.toml"),
)
MOBILENET = Start("MobileNetV2", "ImageNet", RUNS / "study-mobilenetv2", Path("scripts/cxr5-mobilenetv2.toml"))
STARTS = (
    MOBILENET,
    _from_phantoms("DenseNet201"),
    _from_phantoms("ResNet50V2"),
    _from_phantoms("InceptionV3"),
    PHOTOGRAPHS,
)
