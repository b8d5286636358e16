"""TRIDENT's own pipeline on the CPU, with its CTransPath: a second yardstick.

    TRIDENT_PYTHON benchmarks/trident_pipeline.py SLIDE CHECKPOINT COORDS OUT [--batch 32]

Runs in an interpreter that has TRIDENT (github.com/mahmoodlab/TRIDENT, commit a91fa84; torch,
torchvision and `timm_ctp` of PyPI) and nothing of this project. The steps and the batch are those
of its `run_single_slide.py`, less its pictures: tissue by its otsu segmenter, which needs no
download, coordinates at 20x and 256 px, features. Before the last step its coordinates are replaced
by those in COORDS (HDF5, dataset `coords`, level-0 pixels): all sides are to encode the same tiles.
CHECKPOINT is `{"model": published CTransPath state dict}`. Prints one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import h5py
from trident import load_wsi
from trident.patch_encoder_models import encoder_factory
from trident.segmentation_models import segmentation_model_factory

MAGNIFICATION = 20
TILE_PX = 256


def main() -> None:
    """Import and the making of models are not timed: the other sides do not count them either."""
    parser = argparse.ArgumentParser()
    for name in ("slide", "checkpoint", "coords", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    segmenter = segmentation_model_factory("otsu")
    encoder = encoder_factory("ctranspath", weights_path=str(arguments.checkpoint)).eval()
    out, steps = str(arguments.out), [time.perf_counter()]
    with load_wsi(slide_path=str(arguments.slide)) as slide:
        slide.segment_tissue(
            segmentation_model=segmenter,
            target_mag=segmenter.target_mag,
            job_dir=out,
            device="cpu",
        )
        steps.append(time.perf_counter())
        coords = slide.extract_tissue_coords(MAGNIFICATION, TILE_PX, save_coords=out)
        steps.append(time.perf_counter())
        own = replace_coords(Path(coords), arguments.coords)
        began = time.perf_counter()
        features = slide.extract_patch_features(
            patch_encoder=encoder,
            coords_path=coords,
            save_features=out,
            device="cpu",
            batch_limit=arguments.batch,
        )
        encode_s = time.perf_counter() - began
    with h5py.File(features) as file:
        tiles = len(file["features"])
    seconds = steps[2] - steps[0] + encode_s
    stages = {"tissue": steps[1] - steps[0], "coords": steps[2] - steps[1], "encode": encode_s}
    figures = {"tiles": tiles, "seconds": seconds, "tiles_per_second": tiles / seconds}
    print(json.dumps({**figures, "stages_s": stages, "own_tiles": own, "features": features}))


def replace_coords(file: Path, source: Path) -> int:
    """How many tiles ``file`` named before it named those of ``source``. Attributes stay."""
    with h5py.File(source) as other:
        wanted = other["coords"][:]
    with h5py.File(file, "r+") as own:
        attributes, tiles = dict(own["coords"].attrs), len(own["coords"])
        del own["coords"]
        own["coords"] = wanted
        own["coords"].attrs.update(attributes)
    return tiles


if __name__ == "__main__":
    main()
