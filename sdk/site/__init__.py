"""A bundle on a hospital's own slides: what it is worth there, and what it takes to be worth it.

``slides`` reads the table of what is known of them and what was predicted, ``validate`` puts it
together into a :class:`~pathgene_rt.site.validate.Validation`: ``figures`` of each head over cases,
``repeatability``, ``installation`` (what is installed, and whether it computes as it should).
``calibrate`` makes a site profile, ``compare`` sets two bundles side by side, ``pages`` are the
documents of these. Imports predictor, evaluation and all below them.
"""

from __future__ import annotations
