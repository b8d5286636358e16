"""Whether NVIDIA's compiler builds the graphs of a bundle, and for which cards: found out where the
bundle is made, with TensorRT for RTX, which needs no GPU for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pathgene_rt.bundle.spec import CompiledFor, ModelSpec
from pathgene_rt.engines.tensorrt.ahead_of_time import CARDS, MAX_BATCH, Limits, build_ahead
from pathgene_rt.engines.tensorrt.library import TENSORRT_RTX, Card, card_in_words
from pathgene_rt.engines.tensorrt.profiles import Profile, profiles_for
from pathgene_rt.errors import MissingExtraError

TURING: Card = (7, 5)
"""Its cards have no products in float32 with this compiler: what lacks there is no fault."""

_REASON_LENGTH = 240


@dataclass(frozen=True)
class Compiled:
    """What became of one graph: ``model`` ("the encoder", "head egfr in float16"), for which cards
    it builds, bytes of the engine for all of these but Turing, seconds of CPU time."""

    model: str
    spec: CompiledFor
    engine_bytes: int
    cpu_s: float
    peak: int

    @property
    def warning(self) -> str:
        """That it does not build for a card that has all it needs, or an empty string."""
        refused = {
            card: why for card, why in self.spec.refused.items() if card != card_in_words(TURING)
        }
        if not refused:
            return ""
        return (
            f"{self.model} does not build with {self.spec.compiler} for cards of "
            f"{', '.join(refused)}: {next(iter(refused.values()))}; there it runs on another engine"
        )


def wanted(check: bool | None) -> bool:
    """Whether to find it out: asked for, or not forbidden where the compiler is installed.

    Raises :class:`MissingExtraError` if it is asked for and not installed.
    """
    if check and not TENSORRT_RTX.installed():
        raise MissingExtraError(
            "--check-tensorrt needs TensorRT for RTX, though no GPU; "
            "run pip install 'pathgene-rt[tensorrt-rtx]'"
        )
    return TENSORRT_RTX.installed() if check is None else check


def compile_graph(
    name: str,
    model: bytes,
    spec: ModelSpec,
    *,
    limits: Limits | None = None,
    profiles: tuple[Profile, ...] = (),
) -> Compiled:
    """Build the graph ``model``, called ``name`` in messages, for each generation of cards.

    One build serves all but Turing; if it fails, each is tried alone. Turing is apart. Engines
    have ``profiles``, by default the product's own.
    """
    profiles = profiles or profiles_for(spec, MAX_BATCH)
    newer = tuple(card for card in CARDS if card != TURING)
    built = build_ahead(model, spec, newer, profiles, limits=limits)
    seconds, peak = built.cpu_s, built.peak
    groups = [(TURING,)] if built.plan is not None else [(card,) for card in CARDS]
    refused: dict[Card, str] = {}
    for cards in groups:
        one = build_ahead(model, spec, cards, profiles, limits=limits)
        seconds, peak = seconds + one.cpu_s, max(peak, one.peak)
        if one.plan is None:
            refused.update(dict.fromkeys(cards, one.error[:_REASON_LENGTH]))
    return Compiled(
        model=name,
        spec=CompiledFor(
            compiler=f"{TENSORRT_RTX.title} {TENSORRT_RTX.release()}",
            builds=tuple(card_in_words(card) for card in CARDS if card not in refused),
            refused={card_in_words(card): why for card, why in refused.items()},
        ),
        engine_bytes=len(built.plan or b""),
        cpu_s=seconds,
        peak=peak,
    )


def in_table(graphs: Sequence[Compiled]) -> Iterator[str]:
    """A Markdown table: a row a graph, a column a generation of cards."""
    cards = [f"{card_in_words(card)} ({sold})" for card, sold in CARDS.items()]
    yield f"| graph | {' | '.join(cards)} |"
    yield "|---" * (1 + len(cards)) + "|"
    for graph in graphs:
        cells = ["yes" if card_in_words(card) in graph.spec.builds else "no" for card in CARDS]
        yield f"| {graph.model} | {' | '.join(cells)} |"
