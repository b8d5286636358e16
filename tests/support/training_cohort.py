"""A small cohort with a planted signal: features, labels and the configuration to train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pathgene_rt.features.bag import FeatureBag
from pathgene_rt.features.hdf5 import write_features

WIDTH = 16
ENCODER = "a" * 64
CONFIG = """\
[data]
features = "features"
labels = "labels.csv"

[training]
epochs = 25
patience = 6
learning_rate = 1e-3
bootstrap = 200

[[head]]
name = "egfr"
architecture = "abmil"
task = "EGFR"
gene = "EGFR"
threshold = 0.4
[head.options]
projection = 16
hidden = 8

[[head]]
name = "tp53"
architecture = "clam_sb"
task = "TP53"
gene = "TP53"
"""


def write_cohort(folder: Path, *, cases: int = 40, signal: float = 3.0) -> Path:
    """Features of one or two slides a case, in a fifth of whose tiles one feature is raised if
    EGFR is mutated, another if TP53 is; the labels; and the configuration, which is returned."""
    random = np.random.default_rng(5)
    (folder / "features").mkdir(parents=True)
    rows = ["slide_id,case_id,EGFR,TP53,centre"]
    for case in range(cases):
        egfr, tp53 = case % 2, case // 2 % 2
        for slide in range(1 + case % 3 // 2):
            n = int(random.integers(20, 60))
            features = random.standard_normal((n, WIDTH)).astype(np.float32)
            features[: n // 5, 0] += signal * egfr
            features[-(n // 5) :, 1] += signal * tp53
            name = f"s{case:02d}_{slide}"
            write_features(folder / "features" / f"{name}.h5", make_bag(name, features))
            labels = ["mutated" if mutated else "wild type" for mutated in (egfr, tp53)]
            centre = "ABC"[case // 4 % 3]
            rows.append(f"{name},c{case:02d},{labels[0]},{labels[1]},{centre}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "train.toml").write_text(CONFIG)
    return folder / "train.toml"


def make_bag(name: str, features: np.ndarray) -> FeatureBag:
    xy = np.array([(256 * (place % 8), 256 * (place // 8)) for place in range(len(features))])
    return FeatureBag(
        slide_id=name,
        features=features,
        xy=xy.astype(np.int32),
        tile_px=256,
        mpp=0.5,
        span_px=256.0,
        encoder_sha256=ENCODER,
    )
