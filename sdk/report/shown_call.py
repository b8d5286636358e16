"""What pages show of a call, from the entry of a prediction in ``report.json`` or ``case.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Text = tuple[str, dict[str, str]]
"""The key of a text and the values in it."""


def marks(prediction: Mapping[str, Any]) -> tuple[float, ...]:
    """Where on the scale a call changes: the cut-offs of the head's zones, or its threshold."""
    zones, threshold = prediction.get("zones"), prediction["threshold"]
    if zones:
        return tuple(
            cut_off["value"] for cut_off in (zones["rule_out"], zones["rule_in"]) if cut_off
        )
    return () if threshold is None else (threshold,)


def is_withheld(answer: Mapping[str, Any]) -> bool:
    """Whether no answer is given: the probability is not to be read as one."""
    return bool(answer["call"] == "withheld" and not answer["called"])


def reasons(answer: Mapping[str, Any]) -> tuple[Text, ...]:
    """Why the call is what it is."""
    return tuple(
        (
            f"reasons.{reason['code']}",
            {name: f"{value:.3g}" for name, value in reason["figures"].items()} | reason["names"],
        )
        for reason in answer.get("reasons", ())
    )


def cut_offs(prediction: Mapping[str, Any]) -> tuple[Text, ...]:
    """What holds beyond each cut-off."""
    zones = prediction.get("zones") or {}
    return tuple(
        (
            f"report.cut_off_{cut_off['measure']}",
            {
                "value": f"{cut_off['value']:.3g}",
                "at_least": f"{100 * cut_off['at_least']:g}",
                "prevalence": f"{100 * (cut_off['prevalence'] or 0):g}",
                "cases": str(cut_off["cases"]),
            },
        )
        for cut_off in (zones.get("rule_out"), zones.get("rule_in"))
        if cut_off
    )
