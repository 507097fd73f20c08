"""What methods say by paradigm: whether paradigms agree on a pair, and on the order of architectures.

Methods of one paradigm are functions of the same quantities, so that several of them are no independent witnesses. A
disagreement is always said: nothing here is averaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from harness.results.schema import ComparisonResult
from harness.results.vocabulary import Vocabulary


def by_paradigm(methods: Sequence[str], vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Paradigm -> its methods, both in the order of the methods."""
    found: dict[str, list[str]] = {}
    for method in methods:
        found.setdefault(vocabulary.method(method).paradigm, []).append(method)
    return found


def agreement(words: Mapping[str, str], vocabulary: Vocabulary) -> str:
    """One sentence about the words (lower case) of several methods; empty where all are of one paradigm.

    `Three of four paradigms say moderate drift beyond noise; activation (eigencam) says no drift beyond noise.`
    """
    groups = by_paradigm(list(words), vocabulary)
    if len(groups) < 2:
        return ""
    said = {name: [words[method] for method in methods] for name, methods in groups.items()}
    united = {name: found[0] for name, found in said.items() if len(set(found)) == 1}
    (most, count) = Counter(united.values()).most_common(1)[0] if united else ("", 0)
    if count == len(groups):
        return f"All {_number(count)} paradigms say {most}."
    parts = [f"{_number(count).capitalize()} of {_number(len(groups))} paradigms say {most}"] if count > 1 else []
    for name, methods in groups.items():
        if united.get(name) != most or count < 2:
            parts.append(_dissent(name, methods, words))
    return f"{'; '.join(parts)}."


def _dissent(paradigm: str, methods: Sequence[str], words: Mapping[str, str]) -> str:
    """What a paradigm says that does not say what most say, or whose own methods differ."""
    if len({words[method] for method in methods}) == 1:
        return f"{paradigm} ({', '.join(methods)}) says {words[methods[0]]}"
    return f"{paradigm} is divided ({', '.join(f'{method}: {words[method]}' for method in methods)})"


def orders(comparison: ComparisonResult, vocabulary: Vocabulary) -> Iterator[str]:
    """One line per paradigm: the order of the architectures under its methods; nothing for a single paradigm."""
    rankings = {ranking.method: " > ".join(ranking.architectures) for ranking in comparison.rankings}
    groups = by_paradigm(list(rankings), vocabulary)
    if len(groups) < 2:
        return
    for name, methods in groups.items():
        found = Counter(rankings[method] for method in methods)
        shown = "; ".join(f"{order} ({count} of {len(methods)} methods)" for order, count in found.most_common())
        yield f"{comparison.layer}, {name}: {shown}"


def kind_of(methods: Sequence[str], vocabulary: Vocabulary) -> str:
    """Whether two methods are of one paradigm, in words."""
    paradigms = list(dict.fromkeys(vocabulary.method(method).paradigm for method in methods))
    return f"within {paradigms[0]}" if len(paradigms) == 1 else f"{paradigms[0]} against {paradigms[1]}"


def _number(count: int) -> str:
    return ["no", "one", "two", "three", "four"][count]
