"""How a card's memory is shared out: tiles a call, calls at once, where a slide's bag lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pathgene_rt.engines.cuda.errors import DeviceMemoryError

MB = 1 << 20

BagPlacement = Literal["device", "host"]

SHARE = 0.75
"""Of the free memory, for the encoder. The rest is for heads, their bag, and other programs."""

TILE_BYTES = 16 * MB
"""What a tile of 256 px takes in an engine that nothing is known of yet: three of the largest
activations of a Swin-T in float32 (56 x 56 tokens of 4 x 96 values each), and a ViT-H has less."""

CONTEXTS = 2
"""Calls that compute at once: one copies its tiles while another computes. More only queue."""

BATCHES = (32, 64, 128, 256, 512)
"""Tiles a call that suit cards: fewer do not fill one."""

LARGEST_BATCH = BATCHES[-1]
"""From where on throughput no longer grows, but the time to the first result does."""


@dataclass(frozen=True)
class EncoderPlan:
    """``batch`` tiles a call; ``contexts`` calls compute at once, each in memory of its own."""

    batch: int
    contexts: int


def largest_batch(memory_total: int) -> int:
    """The most tiles that engines for a card of ``memory_total`` bytes should take in a call.

    For building, before anything is measured: 4 GB give 64, 8 GB 128, 12 GB 256, 24 GB 512.
    """
    fitting = int(memory_total * SHARE) // (2 * TILE_BYTES)
    return max(1, min(LARGEST_BATCH, _power_of_two(fitting)))


def batches_to_try(memory_total: int) -> tuple[int, ...]:
    """Numbers of tiles a call, ascending, to measure on a card of ``memory_total`` bytes."""
    most = largest_batch(memory_total)
    return tuple(batch for batch in BATCHES if batch <= most) or (most,)


def plan_encoder(
    free: int,
    batch: int,
    in_flight: int,
    activation: Callable[[int], int],
    tile_bytes: int,
) -> EncoderPlan:
    """Share ``free`` bytes out for ``in_flight`` calls of up to ``batch`` tiles.

    ``activation(n)`` is what the engine needs for a call of n tiles, as it measures itself;
    ``tile_bytes`` is one tile's input and output on the device, which each call in flight has. The
    engine's weights are there already. The batch is halved, as often as needed, before calls stop
    overlapping. Raises DeviceMemoryError if not even one tile fits.
    """
    budget = int(free * SHARE)
    contexts = min(in_flight, CONTEXTS)
    tiles = batch
    while True:
        need = activation(tiles)
        buffers = in_flight * tiles * tile_bytes
        if contexts * need + buffers <= budget:
            return EncoderPlan(tiles, contexts)
        if tiles > 1:
            tiles = (tiles + 1) // 2
        elif contexts > 1:
            contexts = 1
        else:
            break
    raise DeviceMemoryError(
        f"one tile needs {(need + buffers) / MB:,.0f} MB of GPU memory, {budget / MB:,.0f} MB may "
        f"be used (of {free / MB:,.0f} MB free); close what else uses the GPU, or use --engine "
        "openvino"
    )


def place_bag(free: int, bag: int, head: int) -> BagPlacement:
    """Where a bag of ``bag`` bytes goes for heads of which the next needs ``head`` bytes itself.

    On the device unless that would not leave room for the head: then it stays in the computer's
    memory, where the GPU reads it over the bus.
    """
    return "device" if bag + head <= free else "host"


def _power_of_two(number: int) -> int:
    """The largest that is not above ``number``; 0 for 0."""
    return 1 << (number.bit_length() - 1) if number > 0 else 0
