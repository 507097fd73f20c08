"""`python -m scripts.study`: run what is not there yet, then write docs/study.

Run from the project's root. Every step is a command of this project or a file made of results; a step whose result
is newer than what it is made of is skipped, and an interrupted one goes on when the command is given again.
"""

from __future__ import annotations

import json
from pathlib import Path

from scripts.study import page, plots, steps
from scripts.study.numbers import study_numbers

DOCS = Path("docs/study")


def main() -> None:
    """Everything, in order."""
    steps.train_all()
    steps.export_all()
    steps.evaluate_all()
    numbers = study_numbers()
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / page.NUMBERS).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    plots.along_training(numbers["training"], DOCS / "training.png")
    plots.stability(numbers["references"], DOCS / "stability.png")
    (DOCS / page.PAGE).write_text(page.render(numbers), encoding="utf-8")
    print(f"written to {DOCS}")


if __name__ == "__main__":
    main()
