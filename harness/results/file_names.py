"""Names of the files in a result folder."""

from __future__ import annotations

RESULT = "evaluation.json"
REPORT = "report.html"
MARKDOWN = "report.md"
SHEET = "contact-sheet.png"
PLAN = "plan.json"
STATISTICS = "scores.json"  # what the scores were computed for
IMAGES = "images.parquet"  # of DICOM files: study, side and view
KEY = "names.key"  # of the pseudonyms
MOST_BYTES = 128 * 2**20  # of plan.json and scores.json
BEGUN = ".begun"  # ends the name of a part's marker while it is worked on
ENDED = "ended"  # the evaluation came to its end without a result; it may be replaced
