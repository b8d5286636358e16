"""The one training loop: bags in, the weights of the best epoch out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathgene_rt.errors import UsageError
from pathgene_rt.heads import HeadInputs
from pathgene_rt.training.config import LoopConfig
from pathgene_rt.training.data import BagStore, LabelledSlide
from pathgene_rt.training.heads.base import Head
from pathgene_rt.training.losses import class_weights, weighted_cross_entropy

EpochProgress = Callable[[int, int], None]
"""Called with (epochs done, epochs at most) after each epoch."""


@dataclass(frozen=True)
class Epoch:
    """Mean losses a bag of one epoch; ``train_loss`` is of the head's objective, under dropout."""

    train_loss: float
    validation_loss: float


@dataclass(frozen=True)
class History:
    """All epochs that were run, and which one's weights the head has now (counted from 0)."""

    epochs: tuple[Epoch, ...]
    best: int


def fit(
    head: Head,
    train: Sequence[LabelledSlide],
    validation: Sequence[LabelledSlide],
    bags: BagStore,
    config: LoopConfig,
    progress: EpochProgress | None = None,
) -> History:
    """Train ``head`` in place until the validation loss has not fallen for ``patience`` epochs.

    Ends with the weights of the best epoch, in eval mode, on the CPU. The order of bags and dropout
    follow ``config.seed``; torch's global generator is left as it was. Raises :class:`UsageError`
    naming the slide at which the loss stops being a number, and FeatureFileError.
    """
    device = _device(config.device)
    trainer = _Trainer(head.to(device), [slide.label for slide in train], bags, config, device)
    shuffle = np.random.default_rng(config.seed)
    epochs: list[Epoch] = []
    best = 0
    best_weights: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=_cuda_devices(device)):
        torch.manual_seed(config.seed)
        while len(epochs) < config.epochs and len(epochs) - best <= config.patience:
            order = shuffle.permutation(len(train))
            train_loss = trainer.train([train[place] for place in order])
            epochs.append(Epoch(train_loss, trainer.evaluate(validation)))
            if not best_weights or epochs[-1].validation_loss < epochs[best].validation_loss:
                best = len(epochs) - 1
                best_weights = copy.deepcopy(head.state_dict())
            if progress is not None:
                progress(len(epochs), config.epochs)
    head.load_state_dict(best_weights)
    head.eval().cpu()
    return History(tuple(epochs), best)


class _Trainer:
    """One head with its loss and optimizer; knows how to run an epoch."""

    def __init__(
        self,
        head: Head,
        labels: Sequence[int],
        bags: BagStore,
        config: LoopConfig,
        device: torch.device,
    ) -> None:
        self.head = head
        self.bags = bags
        self.device = device
        self.rate = config.learning_rate
        classes = head.n_classes
        weights = class_weights(labels, classes) if config.balance else torch.ones(classes)
        self.bag_loss = weighted_cross_entropy(weights.to(device))
        self.optimizer = torch.optim.AdamW(
            head.parameters(), lr=self.rate, weight_decay=config.weight_decay, fused=True
        )

    def train(self, slides: Sequence[LabelledSlide]) -> float:
        """One step a slide, in this order; the mean objective."""
        self.head.train()
        total = 0.0
        for slide in slides:
            loss = self.head.objective(
                label=self._label(slide), bag_loss=self.bag_loss, **self._inputs(slide)
            )
            total += self._finite(loss, slide)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return total / len(slides)

    def evaluate(self, slides: Sequence[LabelledSlide]) -> float:
        """The mean loss of the logits."""
        self.head.eval()
        total = 0.0
        with torch.inference_mode():
            for slide in slides:
                logits = self.head(**self._inputs(slide)).logits
                total += self._finite(self.bag_loss(logits, self._label(slide)), slide)
        return total / len(slides)

    def _inputs(self, slide: LabelledSlide) -> dict[str, Tensor]:
        inputs = bag_inputs(self.head, slide, self.bags)
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def _label(self, slide: LabelledSlide) -> Tensor:
        return torch.tensor(slide.label, device=self.device)

    def _finite(self, loss: Tensor, slide: LabelledSlide) -> float:
        value = float(loss.detach())
        if math.isfinite(value):
            return value
        raise UsageError(
            f"the loss became {value} at the slide {slide.slide_id}; lower training.learning_rate "
            f"(now {self.rate:g})"
        )


def probabilities(
    head: Head, slides: Sequence[LabelledSlide], bags: BagStore
) -> NDArray[np.float64]:
    """Softmax probabilities float64 [slides, classes] of ``head``, which is on the CPU."""
    head.eval()
    with torch.inference_mode():
        logits = [head(**bag_inputs(head, slide, bags)).logits for slide in slides]
    chances: NDArray[np.float64] = torch.stack(logits).double().softmax(dim=1).numpy()
    return chances


def bag_inputs(head: Head, slide: LabelledSlide, bags: BagStore) -> dict[str, Tensor]:
    """The inputs that ``head`` declares, as the runtime builds them, as tensors by name."""
    inputs = HeadInputs(bags.read(slide.features))
    return {name: torch.from_numpy(inputs[name]) for name in head.inputs}


def _device(choice: str) -> torch.device:
    if choice == "cuda" and not torch.cuda.is_available():
        raise UsageError("training.device is cuda, but torch finds no GPU; choose cpu")
    return torch.device(choice)


def _cuda_devices(device: torch.device) -> list[int]:
    return list(range(torch.cuda.device_count())) if device.type == "cuda" else []
