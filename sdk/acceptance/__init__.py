"""Acceptance on the user's machine: every engine built, compared, provoked and timed; one report.

`pathgene-rt doctor --gpu-acceptance BUNDLE` runs it where the card is, so that what could not be
run where the software was made is proven where it is used. Each engine and precision is tried in
processes of its own (:mod:`~pathgene_rt.acceptance.isolation`): a driver that crashes or hangs
costs one check, never the report.
"""
