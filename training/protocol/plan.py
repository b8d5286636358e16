"""What every head of a configuration is trained on, before any is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.bundle.tile_policy import TilePolicy, excluding
from pathgene_rt.bundle.zones import can_have_zones
from pathgene_rt.errors import UsageError
from pathgene_rt.evaluation.labels import LabelTable, listed, read_labels
from pathgene_rt.evaluation.zones import CaseScores, require_support
from pathgene_rt.evaluation.zones_config import ZonesConfig
from pathgene_rt.training import heads
from pathgene_rt.training.config import DataConfig, HeadConfig, LoopConfig, TrainConfig
from pathgene_rt.training.data.cohort import BagStore, Cohort, LabelledSlide, Split
from pathgene_rt.training.data.privileged import Privileged, read_privileged
from pathgene_rt.training.data.targets import Targets, select_labelled
from pathgene_rt.training.heads.base import Head
from pathgene_rt.training.loop import bag_inputs
from pathgene_rt.training.losses import weighted_binary_cross_entropy
from pathgene_rt.training.protocol.folds import given_folds, make_folds

_GIB = 1 << 30


class UnfitHeadError(UsageError):
    """A head that cannot learn labels of this kind."""


@dataclass(frozen=True)
class External:
    """A cohort that only tests; its ``targets`` have the classes of training."""

    slides: tuple[LabelledSlide, ...]
    targets: Targets


@dataclass(frozen=True)
class HeadPlan:
    """A head that is ready to be trained on features [n, in_dim] of ``encoder_sha256``, of tiles
    that ``quality`` does not leave out."""

    config: HeadConfig
    training: LoopConfig
    targets: Targets
    folds: tuple[Split, ...]
    external: External | None
    privileged: Privileged | None
    in_dim: int
    encoder_sha256: str | None
    quality: TilePolicy | None = None

    @property
    def slides(self) -> tuple[LabelledSlide, ...]:
        """All that it is trained, stopped or judged by, but for the external ones."""
        split = self.folds[0]
        return (*split.train, *split.validation, *split.test)

    def create(self) -> Head:
        """The head with the random weights of the seed. Raises UsageError for its options."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            return heads.create(
                self.config.architecture,
                in_dim=self.in_dim,
                n_classes=len(self.targets.classes),
                **self.config.options,
            )


class Planner:
    """Reads tables and features of the heads of ``config`` and shares out their cases.

    ``notes`` are what the user should know of the data. Raises :class:`UsageError` for what is
    wrong in a table, and FeatureFileError.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        encoders = (*config.data.encoders,) or (None,)
        cache = int(config.data.cache_gib * _GIB) // len(encoders)
        self._bags = {
            name: BagStore(cache, config.data.coords, excluding(config.quality))
            for name in encoders
        }
        self._encoders: dict[str, str] = {}
        self.notes: list[str] = []
        self._tables: dict[Path, LabelTable] = {}
        data = config.data
        self._privileged: Privileged | None = None
        if data.privileged is not None:
            self._privileged = read_privileged(data.privileged, data.gene_sets)
        self._given: dict[str, str] | None = None
        if data.split is not None and data.split_file is not None:
            table = read_labels(data.split_file, data.case_pattern, data.split)
            self._given = {row.slide_id: row.split for row in table.rows}

    def bags_of(self, head: HeadConfig) -> BagStore:
        """The features of the head's encoder; each has its share of the memory."""
        return self._bags[head.encoder]

    def plan(self, head: HeadConfig) -> HeadPlan:
        """What ``head`` is trained on. Raises also for its options, :class:`UnfitHeadError` if it
        cannot learn such labels."""
        data, seed = self.config.data_of(head), self.config.training.seed
        bags = self.bags_of(head)
        assert data.features is not None  # the configuration has one or the other
        split = data.split if data.split_file is None else None
        table = self._table(head.labels or data.labels, split)
        cohort, targets = select_labelled(
            table, head.task, data.features, head.classes, multi_label=head.multi_label
        )
        for note in cohort.notes:
            self._note(note)
        cohort = replace(cohort, slides=self._sound(cohort, bags))
        if data.split is not None:
            given = self._given or {row.slide_id: row.split for row in table.rows}
            folds = given_folds(cohort, targets, given, validation=data.validation, seed=seed)
        else:
            folds = make_folds(
                cohort,
                targets,
                folds=data.folds,
                validation=data.validation,
                test=data.test,
                seed=seed,
            )
        if head.zones is not None:
            _require_zones(head, head.zones, targets, folds)
        external = self._external(head, data, targets, cohort.slides)
        # All files are read once before anything is trained: a damaged one, or one of another
        # encoder, must not end a run after hours.
        for slide in (*cohort.slides, *(external.slides if external else ())):
            bag = bags.read(slide.features)
        if head.encoder is not None:
            self._require_encoder(head.encoder, bag.encoder_sha256)
        plan = HeadPlan(
            head,
            self.config.training,
            targets,
            folds,
            external,
            self._privileged,
            bag.features.shape[1],
            bag.encoder_sha256,
            excluding(self.config.quality),
        )
        _check_objective(plan.create(), plan.folds[0].train[0], bags, targets)
        return plan

    def _external(
        self,
        head: HeadConfig,
        data: DataConfig,
        targets: Targets,
        slides: Sequence[LabelledSlide],
    ) -> External | None:
        if data.external is None or data.external_features is None:
            return None
        cohort, there = select_labelled(
            self._table(data.external, None),
            head.task,
            data.external_features,
            targets.classes,
            multi_label=head.multi_label,
        )
        external = self._sound(cohort, self.bags_of(head))
        shared = {slide.case_id for slide in slides} & {slide.case_id for slide in external}
        if shared:
            raise UsageError(
                f"{data.external}: {len(shared)} cases are in the training labels too "
                f"({listed(sorted(shared))}); an external cohort shares none"
            )
        truth = there.truth(external)
        for number, name in enumerate(targets.classes):
            if truth[:, number].all() or not truth[:, number].any():
                raise UsageError(
                    f"{data.external}: column {head.task} needs slides with and without the class "
                    f"{name!r}; add some, or leave out data.external"
                )
        return External(external, there)

    def _sound(self, cohort: Cohort, bags: BagStore) -> tuple[LabelledSlide, ...]:
        """The slides of ``cohort`` without those that would lose more tiles than the policy of
        quality allows: the runtime gives no answer for such."""
        policy = excluding(self.config.quality)
        if policy is None:
            return cohort.slides
        lost = {slide: bags.excessive_loss(slide.features) for slide in cohort.slides}
        kept = tuple(slide for slide, share in lost.items() if share is None)
        for slide, share in lost.items():
            if share is not None:
                self._note(
                    f"{slide.slide_id} is left out: {share:.0%} of its tiles are flawed, and at "
                    f"most {policy.max_excluded_share:.0%} may be (quality.max_excluded_share)"
                )
        if len({slide.label for slide in kept}) < 2:
            raise UsageError(
                f"task {cohort.task}: slides of one class only are left where at most "
                f"{policy.max_excluded_share:.0%} of a slide's tiles may be flawed; add slides or "
                "raise quality.max_excluded_share"
            )
        return kept

    def _require_encoder(self, name: str, found: str | None) -> None:
        """Raise UsageError if features by the encoder ``found`` are not those of the encoder that
        the configuration calls ``name``, or are those of another of its encoders."""
        one = self.config.data.encoders[name]
        if one.bundle is not None:
            with Bundle.open(one.bundle) as bundle:
                wanted = bundle.encoder.weights_sha256
            if found != wanted:
                shown = f"are by the encoder {found[:12]}" if found else "do not say their encoder"
                raise UsageError(
                    f"data.encoders.{name}: the features in {one.features} {shown}, that of "
                    f"{one.bundle.name} is {wanted[:12]}; extract them with it, or correct the path"
                )
        other = name if found is None else self._encoders.setdefault(found, name)
        if other != name:
            raise UsageError(
                f"data.encoders.{other} and data.encoders.{name} have features by the same encoder "
                f"({str(found)[:12]}); leave out one"
            )

    def _table(self, path: Path, split: str | None) -> LabelTable:
        if path not in self._tables:
            self._tables[path] = read_labels(path, self.config.data.case_pattern, split)
            for note in self._tables[path].notes:
                self._note(note)
        return self._tables[path]

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def require_comparable(plans: Sequence[HeadPlan]) -> None:
    """Raise UsageError where heads for one task would not be judged on the same slides."""
    first: dict[str, HeadPlan] = {}
    for plan in plans:
        other = first.setdefault(plan.config.task, plan)
        ours, theirs = ({slide.slide_id for slide in one.slides} for one in (plan, other))
        differing = sorted(ours ^ theirs)
        if differing:
            raise UsageError(
                f"task {plan.config.task}: the encoders {other.config.encoder} and "
                f"{plan.config.encoder} would be judged on different slides "
                f"({listed(differing)}); remove their rows from the labels"
            )


def _require_zones(
    head: HeadConfig, zones: ZonesConfig, targets: Targets, folds: Sequence[Split]
) -> None:
    """Raise UsageError where ``targets`` have no zones, or the validation cases are too few."""
    classes = len(targets.classes)
    if not can_have_zones(classes, targets.activation):
        raise UsageError(
            f"head {head.name}: decision zones are for one class against another, the task "
            f"{head.task} has {classes}{' labels' if targets.activation == 'sigmoid' else ''}; "
            "leave out zones"
        )
    slides = [slide for fold in folds for slide in fold.validation]
    truth = targets.truth(slides)[:, -1]
    cases = CaseScores.of([0.5] * len(slides), truth.tolist(), [one.case_id for one in slides])
    try:
        require_support(zones, len(cases.positive), len(cases.negative))
    except UsageError as error:
        raise UsageError(f"head {head.name}: {error}") from error


def _check_objective(head: Head, slide: LabelledSlide, bags: BagStore, targets: Targets) -> None:
    """Raise :class:`UnfitHeadError` if ``head`` needs one class a slide and ``targets`` have
    several: only its objective knows, so it is asked once, before hours of other work."""
    if targets.activation == "softmax":
        return
    asked = head.prerequisite() or head
    bag_loss = weighted_binary_cross_entropy(torch.ones(len(targets.classes)))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            asked.objective(
                label=targets.tensor(slide), bag_loss=bag_loss, **bag_inputs(asked, slide, bags)
            )
    except UsageError as error:
        raise UnfitHeadError(str(error)) from error
