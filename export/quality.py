"""The one policy of tile quality of a bundle: what its heads were trained by, or what is asked."""

from __future__ import annotations

from collections.abc import Sequence

from pathgene_rt.bundle.tile_policy import TilePolicy, excluding
from pathgene_rt.errors import UsageError
from pathgene_rt.export.head import ExportedHead


def agreed_policy(
    asked: TilePolicy | None, heads: Sequence[ExportedHead]
) -> tuple[TilePolicy | None, tuple[str, ...]]:
    """(the policy, None where no tile is left out; what the user should know of it).

    ``asked`` may change how many tiles a slide may lose, not which are left out: raises UsageError
    where that is not what a head was trained by, or heads were trained by different ones.
    """
    trained = {head.spec.name: head.quality for head in heads if head.quality is not None}
    if asked is None:
        policies = {head.spec.name: head.quality for head in heads}
        if len(set(policies.values())) > 1:
            stated = "; ".join(f"{name}: {_words(one)}" for name, one in policies.items())
            raise UsageError(
                f"heads were trained by different policies of tile quality ({stated}), and a "
                "bundle has one; train them by the same, or export them into two bundles"
            )
        return next(iter(policies.values()), None), ()
    policy = excluding(asked)
    checks = None if policy is None else policy.checks
    for name, own in trained.items():
        if own is not None and own.checks != checks:
            raise UsageError(
                f"head {name} was trained so: {_words(own)}; [quality] says: {_words(policy)}. "
                "Leave [quality] out, or train the head by it"
            )
    if policy is None:
        return None, ()
    unsaid = [head.spec.name for head in heads if head.spec.name not in trained]
    notes = tuple(
        f"head {name} does not say that flawed tiles were left out in its training, and they are "
        "left out of what it sees"
        for name in unsaid
    )
    return policy, notes


def _words(policy: TilePolicy | None) -> str:
    return (policy or TilePolicy()).describe()
