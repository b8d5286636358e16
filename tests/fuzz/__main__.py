"""``python -m tests.fuzz --seconds 60 --seed 0 --kinds slides bundles``: exit code 1 if it found
anything, with how to get each case again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.kinds import KINDS
from tests.fuzz.run import fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="in all, over the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of a kind")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    given = parser.parse_args()
    found = 0
    for kind in given.kinds:
        seconds = given.seconds / len(given.kinds)
        result = fuzz(kind, seconds, given.seed, given.keep, given.first)
        sys.stdout.write(result.describe() + "\n")
        for finding in result.findings:
            sys.stdout.write(f"  FOUND {finding}\n")
        sys.stdout.flush()
        found += len(result.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
