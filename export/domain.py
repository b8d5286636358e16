"""The description of the training features, from the file that training wrote into a bundle."""

from __future__ import annotations

from pathlib import Path

from pathgene_rt.bundle.arrays import read_arrays
from pathgene_rt.bundle.spec import ModelSpec
from pathgene_rt.errors import CheckpointError
from pathgene_rt.features.domain import ENCODER_ARRAY, DomainDescription
from pathgene_rt.files import reason


def load_domain(path: Path, encoder: ModelSpec) -> DomainDescription:
    """The description in ``path``. Raises CheckpointError if it is none, or of another encoder's
    features."""
    try:
        arrays = read_arrays(path.read_bytes())
        stated = arrays.pop(ENCODER_ARRAY, None)
        description = DomainDescription.of_arrays(arrays)
    except OSError as error:
        raise CheckpointError(f"cannot read the domain {path}: {reason(error)}") from error
    except (ValueError, MemoryError) as error:
        raise CheckpointError(
            f"{path} describes no domain ({error or 'out of memory'}); name the domain.npz of a "
            "training run"
        ) from error
    trained_on = "" if stated is None else stated.tobytes().hex()
    if trained_on and trained_on != encoder.weights_sha256:
        raise CheckpointError(
            f"{path} describes features of the encoder {trained_on[:12]}, the bundle's is "
            f"{encoder.weights_sha256[:12]}; extract and train again with this encoder"
        )
    if description.width != encoder.feature_dim:
        raise CheckpointError(
            f"{path} describes {description.width} features a tile, the encoder gives "
            f"{encoder.feature_dim}; name the domain.npz of a run on its features"
        )
    return description
