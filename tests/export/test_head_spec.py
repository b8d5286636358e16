"""What an exporter may say of a head that has decision zones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pathgene_rt.bundle.spec import Calibration, Task
from pathgene_rt.bundle.zones import CutOff, DecisionZones
from pathgene_rt.errors import UsageError
from pathgene_rt.export.head_spec import stated_task
from pathgene_rt.export.request import HeadRequest

LOW = CutOff(value=0.2, measure="sensitivity", at_least=0.95, confidence=0.95, cases=80, errors=1)
HIGH = replace(LOW, value=0.7, measure="specificity")
TASK = Task(
    kind="mutation",
    zones=DecisionZones(rule_out=LOW, rule_in=HIGH),
    calibration=Calibration(temperature=1.5),
)
REQUEST = HeadRequest(path=Path("egfr.pt"))


def test_zones_go_with_the_head() -> None:
    same = replace(REQUEST, temperature=1.5, threshold=0.3)
    assert stated_task(same, TASK).zones == TASK.zones
    assert stated_task(same, TASK).threshold == 0.3


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (replace(REQUEST, temperature=1.0), "hold at the temperature 1.5"),
        (replace(REQUEST, threshold=0.8), "threshold 0.8 is outside its decision zones"),
    ],
)
def test_what_would_break_them_is_refused(request_: HeadRequest, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stated_task(request_, TASK)
