"""Methods, and encoders, compared on the same folds, the best first: a table, a page, a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from pathgene_rt.evaluation.metrics import FIGURES
from pathgene_rt.files import atomic_path, write_bytes
from pathgene_rt.pages.render import render
from pathgene_rt.report.report import utc_now
from pathgene_rt.training.protocol.cross_validation import TrainedHead
from pathgene_rt.training.protocol.disclosure import centres_of, curve_of
from pathgene_rt.training.protocol.figures import (
    EncoderRow,
    axis_start,
    by_task,
    encoder_rows,
    figure,
    folds_of,
    interval,
    label_of,
)
from pathgene_rt.training.protocol.leaderboard_picture import draw_leaderboard
from pathgene_rt.training.protocol.run_folder import LEADERBOARD, RunFolder


def write_leaderboard(folder: RunFolder, heads: Sequence[TrainedHead]) -> None:
    """Write leaderboard.csv, .html and .png of ``heads``, those of each task by AUROC.

    Raises OutputError.
    """
    boards = by_task(heads)
    write_bytes(folder.path / f"{LEADERBOARD}.csv", _table(boards).encode())
    write_bytes(folder.path / f"{LEADERBOARD}.html", leaderboard_page(heads).encode())
    titles = [(f"{task}: {_counted(own)}", own) for task, own in boards.items()]
    with atomic_path(folder.path / f"{LEADERBOARD}.png") as temporary:
        draw_leaderboard(titles).save(temporary, format="PNG")


def ranked(heads: Sequence[TrainedHead]) -> list[TrainedHead]:
    """``heads`` by task, those of each by AUROC, the best first."""
    return [head for own in by_task(heads).values() for head in own]


def leaderboard_page(heads: Sequence[TrainedHead]) -> str:
    """``heads``, ranked, as one page that needs nothing else."""
    boards = by_task(heads)
    return render(
        "leaderboard.html.j2",
        tasks=list(boards),
        methods=len({head.architecture for head in heads}),
        encoders=[_encoder_row(row, list(boards)) for row in encoder_rows(heads)],
        with_encoders=any(head.encoder is not None for head in heads),
        comparisons=next((row.comparisons for row in encoder_rows(heads)), 0),
        created=utc_now(),
        language="en",
        lowest=axis_start(heads),
        figures=FIGURES,
        boards=[_board(task, own) for task, own in boards.items()],
    )


def _counted(heads: Sequence[TrainedHead]) -> str:
    methods = len({head.architecture for head in heads})
    encoders = len({head.encoder for head in heads})
    return f"{methods} methods" + (f" on features by {encoders} encoders" if encoders > 1 else "")


def _encoder_row(row: EncoderRow, tasks: Sequence[str]) -> dict[str, object]:
    best = [row.best.get(task) for task in tasks]
    return {
        "name": row.encoder,
        "mean_rank": row.mean_rank,
        "best": [
            None if head is None else (figure(head, "auroc"), *interval(head), head.architecture)
            for head in best
        ],
    }


def _board(task: str, heads: Sequence[TrainedHead]) -> dict[str, object]:
    """The part of the page on one task."""
    first = heads[0].metrics
    statements: dict[str, list[str]] = {}
    for head in heads:
        who = statements.setdefault(str(head.metrics.get("leakage", "")), [])
        if head.encoder is not None and head.encoder not in who:
            who.append(head.encoder)
    return {
        "task": task,
        "folds": len(heads[0].folds),
        "slides": first["slides"],
        "cases": first["cases"],
        "part": first["part"],
        "external": "external_auroc" in first,
        "rows": [_row(head) for head in heads],
        "leakage": [
            (", ".join(who) if len(statements) > 1 else "", statement)
            for statement, who in statements.items()
            if statement
        ],
        "centres": _centres(heads),
        "curves": [
            (label_of(head), curve, head.metrics["calibration_error"])
            for head, curve in ((head, curve_of(head.metrics)) for head in heads)
            if curve
        ],
        "zones": [
            (label_of(head), head.task.zones.describe(), head.metrics)
            for head in heads
            if head.task.zones is not None
        ],
    }


def _centres(heads: Sequence[TrainedHead]) -> list[dict[str, object]]:
    """A row a centre: its slides and cases, and each head's AUROC there, None without both classes;
    the cases of all heads are the same."""
    found = [centres_of(head.metrics) for head in heads]
    return [
        {
            "name": name,
            "slides": int(own["slides"]),
            "cases": int(own["cases"]),
            "aurocs": [each.get(name, {}).get("auroc") for each in found],
        }
        for name, own in found[0].items()
    ]


def _row(head: TrainedHead) -> dict[str, object]:
    low, high = interval(head)
    external = "external_auroc" in head.metrics
    return {
        "method": head.architecture,
        "encoder": head.encoder,
        "label": label_of(head),
        "auroc": figure(head, "auroc"),
        "low": low,
        "high": high,
        "folds": folds_of(head),
        "external": figure(head, "external_auroc") if external else None,
        "figures": {name: figure(head, name) for name in FIGURES},
        "parameters": head.parameters,
        "seconds": head.seconds,
    }


def _table(boards: Mapping[str, Sequence[TrainedHead]]) -> str:
    first = next(iter(boards.values()))[0]
    external = [f"external_{name}" for name in FIGURES if "external_auroc" in first.metrics]
    names = [*FIGURES, *external]
    figures = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    what = ("rank", "task", "encoder", "method")
    writer.writerow([*what, *figures, "part", "cases", "parameters", "seconds", "file"])
    for task, heads in boards.items():
        for rank, head in enumerate(heads, 1):
            cells: list[object] = [rank, task, head.encoder or "", head.architecture]
            for name in names:
                values = (figure(head, name), *interval(head, name))
                cells += [f"{value:.6f}" for value in values]
            cells += [head.metrics["part"], head.metrics["cases"], head.parameters]
            writer.writerow([*cells, f"{head.seconds:.1f}", head.file.name])
    return text.getvalue()
