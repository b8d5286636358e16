"""``pathgene-rt monitor``: whether predictions are still like those that went before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from pathgene_rt.cli.choices import PseudonymizeOption, PseudonymKeyOption
from pathgene_rt.cli.console import Console, JsonOption, QuietOption
from pathgene_rt.cli.pseudonymize import choose_pseudonyms
from pathgene_rt.errors import DriftError, UsageError
from pathgene_rt.options import Language

PAGE_FILE = "monitor.html"


def monitor(
    predictions: Annotated[
        Path, typer.Argument(help="The folder that predict wrote.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=f"The page; else {PAGE_FILE} in PREDICTIONS."),
    ] = None,
    scanners: Annotated[
        Path | None, typer.Option(help="CSV (slide_id,scanner), where reports do not tell them.")
    ] = None,
    baseline: Annotated[int, typer.Option(help="So many first slides are what is normal.")] = 100,
    window: Annotated[int, typer.Option(help="Slides after them are taken by so many.")] = 50,
    false_alarms: Annotated[
        float, typer.Option(help="Probability of an alarm at a new window if nothing changed.")
    ] = 0.01,
    language: Annotated[
        str, typer.Option(help="In which the page opens: en or zh; it holds both.")
    ] = "en",
    pseudonymize: PseudonymizeOption = False,
    pseudonym_key: PseudonymKeyOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Chart quality, domain, calls, withheld answers and speed of PREDICTIONS over time.

    The latest slides are compared with the first ones, all together and by scanner. Exit code 8 if
    they differ, so that cron can tell; the page is written anyhow.
    """
    from pathgene_rt.files import write_bytes
    from pathgene_rt.monitor.charts import MonitorOptions
    from pathgene_rt.monitor.charts import monitor as charted
    from pathgene_rt.monitor.observations import observe, read_scanners
    from pathgene_rt.monitor.page import monitor_page
    from pathgene_rt.report.report import utc_now

    if language not in ("en", "zh"):
        raise UsageError(f"language {language!r} is unknown; choose en or zh")
    console = Console(json=json, quiet=quiet)
    options = MonitorOptions(baseline=baseline, window=window, false_alarms=false_alarms)
    pseudonyms = choose_pseudonyms(pseudonymize, pseudonym_key, console)
    named = {} if scanners is None else read_scanners(scanners)
    found = charted(observe(predictions, named, pseudonyms), options, utc_now())
    for folder, why in found.unread.items():
        console.warn(f"{folder}: {why}")
    page = out or predictions / PAGE_FILE
    write_bytes(page, monitor_page(found, cast(Language, language)).encode())
    console.emit(found.to_dict())
    rows = [
        [
            alarm.group,
            alarm.measure,
            alarm.span,
            f"{alarm.before:.3g}",
            f"{alarm.now:.3g}",
            f"{alarm.p:.2g}",
        ]
        for alarm in found.alarms
    ]
    if rows:
        console.table("alarms", ["slides", "measure", "span", "before", "now", "p"], rows)
    for group, count in found.waiting.items():
        console.note(f"{group}: {count} more slides are needed for a baseline and a window")
    console.say(f"{page}: {found.slides} slides, {len(found.charts)} charts")
    if found.alarms:
        first = found.alarms[0]
        raise DriftError(
            f"{len(found.alarms)} alarms, e.g. {first.measure} of {first.group}: "
            f"{first.before:.3g} before, {first.now:.3g} now; see {page}"
        )
