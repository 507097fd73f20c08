"""Names of the files in a result folder."""

from __future__ import annotations

KEY = "names.key"
SHEET = "contact-sheet.png"
REPORT = "report.html"

PLAN = "plan.json"
STATISTICS = "scores.json"
BEGUN = ".begun"
ENDED = "ended"  # the evaluation came to its end without a result; it may be replaced
RESULT = "evaluation.json"
