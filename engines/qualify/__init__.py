"""Which precision is fast and right here: ``build`` tries them, ``replay`` runs the goldens,
``compare`` measures the fidelity error, ``tuning`` the batch, ``int8_calibration`` makes INT8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.engines.qualify.compare import fidelity_error

__all__ = ["fidelity_error"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "fidelity_error": "compare",
    },
)
