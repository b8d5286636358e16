"""From a training TOML to head checkpoints: the library call behind ``pathgene-rt train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.errors import UsageError
from pathgene_rt.features.describe_domain import describe_domain, require_cases, write_domain
from pathgene_rt.files import writable_folder, write_json
from pathgene_rt.training.config import TrainConfig, compare_methods, load_config
from pathgene_rt.training.data.cohort import LabelledSlide
from pathgene_rt.training.protocol.cross_validation import TrainedHead, TrainProgress, train_head
from pathgene_rt.training.protocol.leaderboard import write_leaderboard
from pathgene_rt.training.protocol.plan import HeadPlan, Planner, UnfitHeadError, require_comparable
from pathgene_rt.training.protocol.run_folder import DOMAIN, RUN_FILE, RunFolder
from pathgene_rt.training.run_file import run_document, settings_of


@dataclass(frozen=True)
class TrainResult:
    """What a run wrote into ``folder``; ``notes`` are what the user should know of the data."""

    folder: Path
    heads: tuple[TrainedHead, ...]
    notes: tuple[str, ...]


def train(
    config: TrainConfig | Path,
    out: Path | None = None,
    *,
    methods: str | None = None,
    task: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: TrainProgress | None = None,
) -> TrainResult:
    """Train every head of ``config``; write <name>.pt of each and run.json into the run folder.

    ``out`` overrides the configuration's folder. ``methods`` ("all", or architectures separated by
    commas) compares methods, and the encoders of ``config``, on the folds of ``task`` ("all": of
    every task) and writes a leaderboard; ``task`` alone trains its heads only. Tables, features and
    options of all heads are checked before the first is trained. ``resume`` keeps the folds and
    heads that an earlier run finished. The same configuration, features and machine give the same
    numbers.

    Raises :class:`UsageError` for what is wrong in the configuration or the labels, and where an
    earlier run differs from this; its subclass :class:`~pathgene_rt.training.loop.DivergedError`
    where a loss stops being a number; :class:`FeatureFileError` for features; and
    :class:`OutputError` if the folder cannot be written, or holds results already and neither
    ``overwrite`` nor ``resume`` is set.
    """
    if overwrite and resume:
        raise UsageError("--overwrite and --resume contradict each other; choose one")
    if isinstance(config, Path):
        config = load_config(config)
    if methods is not None or task is not None:
        config = compare_methods(config, methods, task)
    folder = RunFolder(out or config.out)
    names = [head.name for head in config.head]
    if not (overwrite or resume):
        folder.refuse_results(names)
    if config.domain and config.data.encoders:
        raise UsageError("domain describes features by one encoder; leave it out of a comparison")
    planner = Planner(config)
    plans = _plans(planner, config, compare=methods is not None)
    if methods is not None:
        require_comparable(plans)
    described = _slides_of(plans) if config.domain else ()
    if config.domain:
        require_cases(described)
    writable_folder(folder.path)
    if overwrite:
        folder.clear(names)
    trained = [
        train_head(
            plan,
            planner.bags_of(plan.config),
            folder,
            folder.folds(plan.config.name, settings_of(config, plan)),
            progress,
        )
        for plan in plans
    ]
    if config.domain:
        description = describe_domain(described, planner.bags_of(plans[0].config))
        write_domain(folder.path / DOMAIN, description, plans[0].encoder_sha256)
    notes = (*planner.notes, *(note for head in trained for note in head.notes))
    if methods is not None:
        write_leaderboard(folder, trained)
    write_json(folder.path / RUN_FILE, run_document(config, trained, notes))
    return TrainResult(folder.path, tuple(trained), notes)


def _slides_of(plans: Sequence[HeadPlan]) -> tuple[LabelledSlide, ...]:
    """All that any of ``plans`` trains, validates or tests on, each once."""
    slides = {slide.slide_id: slide for plan in plans for slide in plan.slides}
    return tuple(slides.values())


def _plans(planner: Planner, config: TrainConfig, *, compare: bool) -> list[HeadPlan]:
    """One a head; of methods that are compared, those that cannot learn the task's labels become
    notes."""
    plans: list[HeadPlan] = []
    unfit: list[UnfitHeadError] = []
    for head in config.head:
        try:
            plans.append(planner.plan(head))
        except UnfitHeadError as error:
            if not compare:
                raise
            unfit.append(error)
    if not plans:
        raise unfit[0]
    planner.notes += [f"left out: {error}" for error in unfit]
    return plans
