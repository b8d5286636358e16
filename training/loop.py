"""The one training loop: bags in, the weights of the best epoch out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathgene_rt.errors import UsageError
from pathgene_rt.heads.run import HeadInputs
from pathgene_rt.training.config import LoopConfig
from pathgene_rt.training.data.cohort import BagStore, LabelledSlide
from pathgene_rt.training.data.targets import Targets, single_class
from pathgene_rt.training.heads.base import BagLoss, Head
from pathgene_rt.training.losses import (
    class_weights,
    positive_weights,
    weighted_binary_cross_entropy,
    weighted_cross_entropy,
)

EpochProgress = Callable[[int, int], None]
"""Called with (epochs done, epochs at most) after each epoch."""


class PrivilegedTable(Protocol):
    """What is known of slides in training only."""

    def get(self, slide_id: str, case_id: str | None = None) -> Tensor | None:
        """float32 [k] of the slide, else of its case; None where nothing is known of either."""


@dataclass(frozen=True)
class Epoch:
    """Mean losses a bag of one epoch; ``train_loss`` is of the head's objective, under dropout;
    ``validation_loss`` is None where no slide watched."""

    train_loss: float
    validation_loss: float | None


@dataclass(frozen=True)
class History:
    """All epochs that were run, which one's weights the head has now (counted from 0), and the
    same of the head that was trained before it, if it has a prerequisite."""

    epochs: tuple[Epoch, ...]
    best: int
    base: History | None = None


class DivergedError(UsageError):
    """The loss or its gradient stopped being a number at ``slide_id``. The head has the weights of
    the best epoch before that, or ``history`` is None and it has none worth keeping."""

    def __init__(self, message: str, slide_id: str) -> None:
        super().__init__(message)
        self.slide_id = slide_id
        self.history: History | None = None


def fit(
    head: Head,
    train: Sequence[LabelledSlide],
    validation: Sequence[LabelledSlide],
    bags: BagStore,
    config: LoopConfig,
    progress: EpochProgress | None = None,
    *,
    targets: Targets | None = None,
    privileged: PrivilegedTable | None = None,
) -> History:
    """Train ``head`` in place until the validation loss has not fallen for ``patience`` epochs.

    A head that it needs first is trained likewise. Ends with the weights of the best epoch, in eval
    mode, on the CPU. ``targets`` are those of the slides' labels, one class a slide if left out.
    The order of bags and dropout follow ``config.seed``; torch's global generator is left as it
    was. Raises :class:`DivergedError`, FeatureFileError, and UsageError where the head cannot learn
    such labels.
    """
    task = _Task(bags, targets or _numbered(head), privileged)
    return _Run(head, train, validation, task, config, progress).history()


def refit(
    head: Head,
    slides: Sequence[LabelledSlide],
    bags: BagStore,
    config: LoopConfig,
    folds: Sequence[History],
    progress: EpochProgress | None = None,
    *,
    targets: Targets | None = None,
    privileged: PrivilegedTable | None = None,
) -> History:
    """:func:`fit` on all slides of a cross-validation, for as many epochs as its ``folds`` took
    on average to their best. Nothing watches, so the last epoch's weights are kept."""
    task = _Task(bags, targets or _numbered(head), privileged)
    return _Run(head, slides, (), task, config, progress, folds).history()


def logits_of(head: Head, slides: Sequence[LabelledSlide], bags: BagStore) -> NDArray[np.float64]:
    """Logits float64 [slides, classes] of ``head``, which is on the CPU."""
    head.eval()
    with torch.inference_mode():
        logits = [head(**bag_inputs(head, slide, bags)).logits for slide in slides]
    return np.array([row.numpy() for row in logits], np.float64).reshape(-1, head.n_classes)


def bag_inputs(head: Head, slide: LabelledSlide, bags: BagStore) -> dict[str, Tensor]:
    """The inputs that ``head`` declares, as the runtime builds them, as tensors by name."""
    inputs = HeadInputs(bags.read(slide.features))
    return {name: torch.from_numpy(inputs[name]) for name in head.inputs}


@dataclass(frozen=True)
class _Task:
    """What is learnt from: bags, what their labels mean, and what only training knows of them."""

    bags: BagStore
    targets: Targets
    privileged: PrivilegedTable | None


class _BagsWithLabels:
    """Training bags for :meth:`Head.adopt`: read anew each time they are gone through."""

    def __init__(self, head: Head, slides: Sequence[LabelledSlide], task: _Task) -> None:
        self._head, self._slides, self._task = head, slides, task

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for slide in self._slides:
            yield bag_inputs(self._head, slide, self._task.bags), self._task.targets.tensor(slide)


class _Run:
    """One head from its first epoch to its last. With ``folds`` it stops after the mean of their
    best epochs, else when the validation loss says so."""

    def __init__(
        self,
        head: Head,
        train: Sequence[LabelledSlide],
        validation: Sequence[LabelledSlide],
        task: _Task,
        config: LoopConfig,
        progress: EpochProgress | None,
        folds: Sequence[History] = (),
    ) -> None:
        self.head, self.train, self.validation = head, train, validation
        self.task, self.config, self.progress = task, config, progress
        self.folds = folds
        self.epochs: list[Epoch] = []
        self.best = 0
        self.best_weights: dict[str, Tensor] = {}
        self.base: History | None = None

    def history(self) -> History:
        """Run it. The head ends with the best weights, also where it diverges."""
        device = _device(self.config.device)
        with torch.random.fork_rng(devices=_cuda_devices(device)):
            torch.manual_seed(self.config.seed)
            self._prepare()
            stepper = _Stepper(self.head.to(device), self.train, self.task, self.config, device)
            try:
                self._run(stepper)
            except DivergedError as error:
                error.history = self._finish() if self.best_weights else None
                raise
        return self._finish()

    def _prepare(self) -> None:
        base = self.head.prerequisite()
        if base is None:
            return
        folds = [fold.base for fold in self.folds if fold.base is not None]
        run = _Run(base, self.train, self.validation, self.task, self.config, self.progress, folds)
        try:
            self.base = run.history()
        except DivergedError as error:
            error.history = None  # that was of the base, not of the head that the caller holds
            raise
        self.head.adopt(base, _BagsWithLabels(base, self.train, self.task))

    def _run(self, stepper: _Stepper) -> None:
        shuffle = np.random.default_rng(self.config.seed)
        length = self.config.epochs
        if self.folds:
            length = round(sum(fold.best + 1 for fold in self.folds) / len(self.folds))
        while len(self.epochs) < length and len(self.epochs) - self.best <= self.config.patience:
            # Schedules are those that the folds saw, wherever this run ends.
            self.head.begin_epoch(len(self.epochs), self.config.epochs)
            order = shuffle.permutation(len(self.train))
            train_loss = stepper.train([self.train[place] for place in order])
            loss = stepper.evaluate(self.validation) if self.validation else None
            self.epochs.append(Epoch(train_loss, loss))
            lowest = self.epochs[self.best].validation_loss
            if loss is None or lowest is None or not self.best_weights or loss < lowest:
                self.best = len(self.epochs) - 1
                self.best_weights = copy.deepcopy(self.head.state_dict())
            if self.progress is not None:
                self.progress(len(self.epochs), length)

    def _finish(self) -> History:
        self.head.load_state_dict(self.best_weights)
        self.head.eval().cpu()
        return History(tuple(self.epochs), self.best, self.base)


class _Stepper:
    """One head with its loss and optimizer; knows how to go through bags."""

    def __init__(
        self,
        head: Head,
        train: Sequence[LabelledSlide],
        task: _Task,
        config: LoopConfig,
        device: torch.device,
    ) -> None:
        self.head = head
        self.task = task
        self.device = device
        self.rate = config.learning_rate
        self.clip_norm = config.clip_norm or math.inf
        self.bag_loss = _bag_loss(task.targets, train, config, device)
        self.parameters = [weight for weight in head.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.rate, weight_decay=config.weight_decay, fused=True
        )

    def train(self, slides: Sequence[LabelledSlide]) -> float:
        """One step a slide, in this order; the mean objective."""
        self.head.train()
        total = 0.0
        for slide in slides:
            loss = self.head.objective(
                label=self._label(slide),
                bag_loss=self.bag_loss,
                privileged=self._privileged(slide),
                **self._inputs(slide),
            )
            total += self._finite("loss", loss, slide)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            # A gradient that is no number would only show in the next bag's loss.
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
            self._finite("gradient", norm, slide)
            self.optimizer.step()
            self.head.after_step()
        return total / len(slides)

    def evaluate(self, slides: Sequence[LabelledSlide]) -> float:
        """The mean loss of the logits."""
        self.head.eval()
        total = 0.0
        with torch.inference_mode():
            for slide in slides:
                logits = self.head(**self._inputs(slide)).logits
                total += self._finite("loss", self.bag_loss(logits, self._label(slide)), slide)
        return total / len(slides)

    def _inputs(self, slide: LabelledSlide) -> dict[str, Tensor]:
        inputs = bag_inputs(self.head, slide, self.task.bags)
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def _label(self, slide: LabelledSlide) -> Tensor:
        return self.task.targets.tensor(slide).to(self.device)

    def _privileged(self, slide: LabelledSlide) -> Tensor | None:
        table = self.task.privileged
        known = table.get(slide.slide_id, slide.case_id) if table is not None else None
        return known.to(self.device) if known is not None else None

    def _finite(self, what: str, number: Tensor, slide: LabelledSlide) -> float:
        value = float(number.detach())
        if math.isfinite(value):
            return value
        raise DivergedError(
            f"the {what} became {value} at the slide {slide.slide_id}; lower "
            f"training.learning_rate (now {self.rate:g}) or set training.clip_norm",
            slide.slide_id,
        )


def _bag_loss(
    targets: Targets, slides: Sequence[LabelledSlide], config: LoopConfig, device: torch.device
) -> BagLoss:
    truth = torch.from_numpy(targets.truth(slides)).to(torch.float32)
    exclusive = targets.activation == "softmax"
    weights = torch.ones(len(targets.classes))
    if config.balance:
        weights = class_weights(truth) if exclusive else positive_weights(truth)
    loss = weighted_cross_entropy if exclusive else weighted_binary_cross_entropy
    return loss(weights.to(device), config.label_smoothing)


def _numbered(head: Head) -> Targets:
    return single_class([str(number) for number in range(head.n_classes)])


def _device(choice: str) -> torch.device:
    if choice == "cuda" and not torch.cuda.is_available():
        raise UsageError("training.device is cuda, but torch finds no GPU; choose cpu")
    return torch.device(choice)


def _cuda_devices(device: torch.device) -> list[int]:
    return list(range(torch.cuda.device_count())) if device.type == "cuda" else []
