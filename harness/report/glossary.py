"""What the words and numbers of a report mean, in sentences: one record each, shown wherever the word stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.results.vocabulary import BUILT_IN, Vocabulary
from kernels.reasons import Reason
from kernels.record_types import MethodRecord, MetricRecord

_LIMITS = {"high": "High is stable.", "low": "Low is stable.", "zero": "Near 0 is stable."}

# Why a statistic has no interval or no value; a map's own reasons are those of `kernels.reasons`.
STATISTIC_REASONS = {
    "few_patients": "fewer than 20 patients, too few to resample: there is no interval",
    "identical": "the values are the same in every image but for rounding, so there is nothing to test; it is not one "
    "of the comparisons that are corrected for",
    "floor_not_separated": "the interval of floor minus chance reaches 0: without any drift the maps differ about "
    "as much as those of unrelated images do, so drift cannot be told from that",
    "no_images": "no image has the value and both of its references",
    "no_variation": "all cells are equal, so there is no variation to share out",
    "one_class": "the images are all of one class",
    "undefined": "no draw of patients has a value",
}


@dataclass(frozen=True)
class Definition:
    """A word, what it means, and where it comes from. `key` is unique and fit for an HTML id."""

    key: str
    title: str
    text: str
    source: str = ""


def reason_sentence(label: str) -> str:
    """Why a value is undefined, from its label in `evaluation.json`."""
    if label in STATISTIC_REASONS:
        return STATISTIC_REASONS[label]
    known = {reason.label: reason.sentence for reason in Reason}
    return known.get(label, label.replace("_", " "))


def definitions(methods: list[str], vocabulary: Vocabulary = BUILT_IN) -> dict[str, Definition]:
    """Every definition of a report by its key: words, metrics, then the CAM methods that it uses."""
    records = [*_WORDS, *_metrics(vocabulary), *(_method(vocabulary.method(name)) for name in methods)]
    return {record.key: record for record in records}


def _metrics(vocabulary: Vocabulary) -> Iterator[Definition]:
    for record in vocabulary.metrics:
        if record.kind == "pair":
            low, high = (f"{end:g}" for end in record.range)
            text = f"{_sentence(record.definition)} Range {low} to {high}. {_LIMITS[record.stable_is]}"
            yield Definition(record.name, record.name, text, record.source)
        else:
            yield from _concentration(record)


def _concentration(record: MetricRecord) -> Iterator[Definition]:
    text = f"{_sentence(record.definition)} Of the map before, of the map after, and after minus before."
    yield Definition(record.name, record.name, text, record.source)
    text = f"The size of the change of {record.name}, whatever its sign. {_sentence(record.definition)} Low is stable."
    yield Definition(record.stability, record.stability, text, record.source)


def _method(record: MethodRecord) -> Definition:
    cost = f" A map takes {record.cost}." if record.cost else ""
    text = f"{record.equation.rstrip('.')}.{cost} Paradigm: {record.paradigm}."
    return Definition(method_key(record.name), record.name, text, record.source)


def method_key(name: str) -> str:
    """The key of a CAM method's definition."""
    return f"method-{name.replace('+', 'p')}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


_WORDS = (
    Definition(
        "index",
        "Stability index",
        "(mean - chance) / (floor - chance), all three over the same images. 1: the maps moved no more than without "
        "any training; 0: they have no more in common than maps of two unrelated images. It may exceed 1. It is "
        "undefined where floor and chance cannot be told apart.",
        "our own definition",
    ),
    Definition(
        "words",
        "Words for drift",
        "A convention on the 95 % interval of the index: from 0.90 no drift, from 0.75 slight, from 0.50 moderate, "
        "from 0.25 strong, below severe. Each end of the interval names a step; nothing between is excluded. Where "
        "the interval reaches the first step, no drift is shown, and the drop that as many patients would have shown "
        "with 80 % power stands beside it. “Beyond” names the floor: words on different floors cannot be compared.",
        "our own convention; a gate policy sets bounds of its own",
    ),
    Definition(
        "paradigm",
        "Paradigm",
        "What the maps of a method are made of: gradients at the image (gradient), gradients on the way from nothing "
        "to it (path), scores of changed inputs (perturbation), or activations alone (activation). Methods of one "
        "paradigm are no independent witnesses; agreement of several paradigms says more.",
        "our own grouping",
    ),
    Definition(
        "chance",
        "Chance",
        "The same metric between the map of one image before and that of another image after: same class, different "
        "patient, averaged over seeded draws. Maps follow the shape of a chest, so chance is not 0.",
        "derangements of the sorted image list",
    ),
    Definition(
        "floor",
        "Noise floor",
        "The metric without training in between. Jitter: the same checkpoint on the image and on the image with slight "
        "noise, moved by one pixel and moved back. Replicate: two trainings of the same phase with different seeds.",
        "our own definition",
    ),
    Definition(
        "interval",
        "95 % interval",
        "Percentiles of the bootstrap over patients: all images of a patient are drawn together. None below 20 "
        "patients.",
        "Cameron, Gelbach & Miller 2008, doi:10.1162/rest.90.3.414; Efron & Tibshirani 1993, chapter 13",
    ),
    Definition(
        "distribution",
        "Box",
        "Thin line: 5 % to 95 % of the images. Box: 25 % to 75 %. Tick: median. Dot: mean, with its 95 % interval.",
    ),
    Definition(
        "n",
        "n",
        "Number of compared images (with several labels per image: images and labels) on which the value is defined.",
    ),
    Definition(
        "selection",
        "Compared images",
        "true-positive: those that both checkpoints classify correctly; agree: those on which they agree; all: every "
        "image that can be read. The map explains the true class, or without labels the one that “before” predicts.",
    ),
    Definition(
        "vanished",
        "Vanished",
        "One of the two maps is zero everywhere and the other is not. Overlap metrics are 0 there; this counts as "
        "drift and has a rate of its own.",
    ),
    Definition(
        "undefined",
        "Undefined",
        "A value that cannot be computed is not a zero: it enters no mean and is counted under its reason.",
    ),
    Definition("accuracy", "Accuracy", "Share of images whose true class is the predicted one."),
    Definition(
        "auc",
        "Macro AUC",
        "Area under the ROC curve of each class against the rest, averaged over classes.",
        "Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747",
    ),
    Definition(
        "ece",
        "Calibration error",
        "Expected calibration error of the top label: mean distance of confidence and accuracy in 15 equal bins.",
        "Guo et al. 2017, arXiv 1706.04599",
    ),
    Definition("agreement", "Agreement", "Share of images on which both checkpoints decide alike, right or wrong."),
    Definition(
        "flips",
        "Flips",
        "Answers that differ between before and after; negative where the first was right and the second is wrong. "
        "The rate of negative flips is a share of all images. An image counts as moved where its top-20 % overlap lies "
        "below the 5 % quantile of the comparisons with noise, pooled over images and both checkpoints. Same answer "
        "and moved: other evidence that no statistic of predictions sees.",
        "Yan et al. 2021, arXiv 2011.09161; the table with moved is our own",
    ),
    Definition(
        "equivalence",
        "Equivalence",
        "Two one-sided tests at 5 %: the 90 % interval of the difference lies within the margin. “Not shown” does not "
        "mean different.",
        "Schuirmann 1987, doi:10.1007/BF01068419",
    ),
    Definition(
        "consistency",
        "Consistency",
        "How alike the maps of one class are from image to image: mean over pairs of images of the soft IoU of the "
        "squared, scaled maps, weighted by both class probabilities.",
        "our own definition, after the C-Score of arXiv 2604.08502",
    ),
    Definition(
        "conditioning",
        "Conditioning",
        "Of Grad-CAM++, per image: the share of the sum of relu(G) / d that comes from denominators d below 1. Such a "
        "term diverges where d nears 0, so that a few elements of the layer decide the map.",
        "our own definition",
    ),
    Definition(
        "inside",
        "Evidence inside",
        "sum(M R) / sum(M) of a map M and a region R. Gained and lost: the mass, of maps that sum to 1, that is higher "
        "and lower after than before inside of the region; after minus before is gained minus lost. A map that does "
        "not look at the picture has the region's area inside.",
        "energy-based pointing game, Wang et al. 2020, arXiv 1910.01279",
    ),
    Definition(
        "preserved",
        "Trained to preserve evidence",
        "A part of the checkpoint's training loss was the distance of its maps, under one method, from those of a "
        "reference. That it did well under this method, or another of the same paradigm, is what it was trained for.",
    ),
    Definition(
        "order",
        "Order probability",
        "Share of the bootstrap draws of patients in which the architectures come in this order.",
    ),
    Definition(
        "reversal",
        "Reversal",
        "Two architectures change places between two methods. Called only if both differences survive Holm's "
        "correction with opposite signs. The probability is the share of draws with opposite signs: about 0.50 where "
        "neither architecture differs, so 0.50 is not evidence.",
        "Holm 1979, Scand. J. Statist. 6, 65-70",
    ),
    Definition(
        "holm",
        "p (Holm)",
        "Sign-flip permutation over whole patients, corrected for all differences of the same metric and layer.",
        "Phipson & Smyth 2010, doi:10.2202/1544-6115.1585; Holm 1979, Scand. J. Statist. 6, 65-70",
    ),
    Definition(
        "interaction",
        "Interaction",
        "Share of the variation, image means removed, that is architecture by method: how much the order of the "
        "architectures depends on the method. Biased upwards for few images.",
        "analysis of variance",
    ),
)
