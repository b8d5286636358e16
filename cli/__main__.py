"""``python -m pathgene_rt.cli`` is the same as ``pathgene-rt``."""

from pathgene_rt.cli.entry import main

main()
