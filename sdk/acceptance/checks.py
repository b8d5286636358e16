"""All checks, in the order in which they are made: the first builds what the others load."""

from __future__ import annotations

from pathgene_rt.acceptance.error_checks import ERROR_CHECKS
from pathgene_rt.acceptance.fidelity_checks import FIDELITY_CHECKS
from pathgene_rt.acceptance.gpu_checks import GPU_CHECKS, GPU_TIMING_CHECKS
from pathgene_rt.acceptance.timing_checks import TIMING_CHECKS
from pathgene_rt.acceptance.workbench import Check

CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        *FIDELITY_CHECKS,
        *ERROR_CHECKS,
        *GPU_CHECKS,
        *TIMING_CHECKS,
        *GPU_TIMING_CHECKS,
    )
}
"""By name."""
