"""Several slides of one case.

``table`` reads which slides belong together, ``predict`` gives the mean over slides and the pooled
bag, ``report`` is what is written of it, ``page`` how it is shown; ``batch`` does the cases of many
slides, whose results lie where ``places`` says. Imports report and all below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.cases.predict import predict_case
    from pathgene_rt.cases.report import CaseReport
    from pathgene_rt.cases.table import Case, read_cases

__all__ = ["Case", "CaseReport", "predict_case", "read_cases"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Case": "table",
        "CaseReport": "report",
        "predict_case": "predict",
        "read_cases": "table",
    },
)
