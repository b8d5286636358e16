"""What the site's policy asks for, put to work: the audit trail."""

from __future__ import annotations

from pathgene_rt.audit.trail import AuditTrail
from pathgene_rt.errors import UsageError
from pathgene_rt.policy import SitePolicy, policy_path, site_policy


def audit_of_site(chosen: AuditTrail | None, policy: SitePolicy | None = None) -> AuditTrail | None:
    """The trail that predictions get their lines in: that of the site's ``policy`` (None: this
    machine's), else the one that was ``chosen``. It can be written, and knows of the policy.

    Raises UsageError if both are there and differ; as :meth:`AuditTrail.append`.
    """
    policy = site_policy() if policy is None else policy
    trail = chosen
    if policy.audit is not None:
        trail = AuditTrail(policy.audit)
        if chosen is not None and chosen.path != trail.path:
            raise UsageError(
                f"the site's policy {policy_path()} says that the audit trail is {trail.path}; "
                f"leave out {chosen.path}"
            )
    if trail is not None:
        trail.require_writable()
        if policy.sha256:
            trail.site_changed("policy", policy.sha256)
    return trail
