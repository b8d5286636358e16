"""A context, as a user states whose a slide is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

CONTEXT: dict[str, Any] = {
    "patient": {"id": "MRN-1", "name": "Muster^Änne", "birth_date": "19500131", "sex": "F"},
    "study": {
        "instance_uid": "1.2.826.0.1.3680043.8.498.1.8",
        "id": "S1",
        "date": "20260102",
        "time": "101112",
        "accession_number": "ACC-1",
        "referring_physician": "Arzt^Ida",
    },
    "specimen": {"container_id": "BARCODE-1", "id": "B1", "uid": "1.2.826.0.1.3680043.8.498.1.5"},
    "image": {
        "sop_instance_uid": "1.2.826.0.1.3680043.8.498.1.0.1",
        "series_instance_uid": "1.2.826.0.1.3680043.8.498.1.7",
        "frame_of_reference_uid": "1.2.826.0.1.3680043.8.498.1.6",
        "origin_mm": [20.0, 45.0],
        "orientation": [0.0, -1.0, 0.0, -1.0, 0.0, 0.0],
        "pixel_spacing_mm": [0.00025, 0.00025],
    },
}


def context(**changes: Any) -> dict[str, Any]:
    """CONTEXT with ``changes`` at paths such as ``patient__id``; None takes an entry away."""
    made = copy.deepcopy(CONTEXT)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = made
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return made


def write_context(folder: Path, **changes: Any) -> Path:
    path = folder / "context.json"
    path.write_text(json.dumps(context(**changes)), encoding="utf-8")
    return path
