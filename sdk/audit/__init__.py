"""The audit trail: what was done when, by whom and with which model, in lines that hold each other.

``trail`` appends to one, ``chain`` says how lines and the head beside them are written, ``verify``
finds whatever was removed, changed or reordered since. Imports the root only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.audit.trail import AuditTrail
    from pathgene_rt.audit.verify import verify_trail, verify_trails

__all__ = ["AuditTrail", "verify_trail", "verify_trails"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AuditTrail": "trail",
        "verify_trail": "verify",
        "verify_trails": "verify",
    },
)
