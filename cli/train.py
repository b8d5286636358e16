"""``pathgene-rt train``: heads from features and a label table."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pathgene_rt.cli.choices import OverwriteOption
from pathgene_rt.cli.console import Console, JsonOption, Progress, QuietOption


def train(
    config: Annotated[Path, typer.Argument(help="Training TOML.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; else the one in the TOML.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help='Compare methods: "all", or some, separated by commas.'),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Train for this task only (or all): a head's name or label column."),
    ] = None,
    overwrite: OverwriteOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the folds and heads that are finished.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the heads of a TOML; docs/train.example.toml explains its keys.

    A loss that stops being a number ends the run with exit code 2; the best weights until then are
    in <head>.diverged.pt.
    """
    from pathgene_rt.training.requirements import require_training

    require_training()
    from pathgene_rt.bundle.zones import cut_offs
    from pathgene_rt.training.protocol.leaderboard import ranked
    from pathgene_rt.training.train import train as train_heads

    console = Console(json=json, quiet=quiet)
    with _EpochBars(console) as bars:
        result = train_heads(
            config,
            out,
            methods=methods,
            task=task,
            overwrite=overwrite,
            resume=resume,
            progress=bars.update,
        )
    for note in result.notes:
        console.note(f"note: {note}")
    console.emit(
        {
            "folder": str(result.folder),
            "heads": [
                {
                    "name": head.name,
                    "architecture": head.architecture,
                    "label_column": head.column,
                    "encoder": head.encoder,
                    "file": str(head.file),
                    "classes": list(head.classes),
                    "threshold": head.task.threshold,
                    "temperature": head.task.calibration.temperature,
                    "zones": None if head.task.zones is None else asdict(head.task.zones),
                    "metrics": head.metrics,
                    "parameters": head.parameters,
                    "seconds": head.seconds,
                }
                for head in result.heads
            ],
            "notes": list(result.notes),
        }
    )
    heads = ranked(result.heads) if methods is not None else result.heads
    rows = [
        [head.name, head.architecture, *_figures(head.metrics), str(head.file)] for head in heads
    ]
    columns = ["head", "architecture", "AUROC", "95 % interval", "on", "file"]
    if any(head.encoder is not None for head in heads):
        columns.insert(2, "encoder")
        for row, head in zip(rows, heads, strict=True):
            row.insert(2, head.encoder or "")
    console.table("", columns, rows)
    for head in heads:
        for name, cut_off in cut_offs(head.task.zones):
            console.say(f"{head.name}: {name} {cut_off.value:.4g}: {cut_off.describe()}")
        if "zones_reference_tests_saved" in head.metrics:
            console.say(f"{head.name}: {_saved(head.metrics)}")


class _EpochBars:
    """One progress bar a head, the next replacing the last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stack = ExitStack()
        self._name: str | None = None
        self._bar: Progress | None = None

    def __enter__(self) -> _EpochBars:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def update(self, name: str, done: int, total: int) -> None:
        if name != self._name:
            self._stack.close()
            self._name = name
            self._bar = self._stack.enter_context(
                self._console.progress(f"training {name}", total, "epochs")
            )
        assert self._bar is not None
        self._bar.update(done, total)


def _saved(metrics: dict[str, Any]) -> str:
    """What the zones would have saved on cases that chose none of their cut-offs."""
    parts = []
    for name in ("reference_tests_saved", "sensitivity", "specificity"):
        low, high = metrics[f"zones_{name}_interval"]
        words = name.replace("_", " ")
        parts.append(f"{words} {metrics[f'zones_{name}']:.3f} ({low:.3f} to {high:.3f})")
    return f"{', '.join(parts)} on {metrics['zones_cases']} cases that chose no cut-off"


def _figures(metrics: dict[str, Any]) -> list[str]:
    low, high = metrics["auroc_interval"]
    where = f"{metrics['cases']} cases ({metrics['part']})"
    return [f"{metrics['auroc']:.3f}", f"{low:.3f} to {high:.3f}", where]
