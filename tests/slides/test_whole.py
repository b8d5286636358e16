"""A TIFF that was cut anywhere is not whole, though its first levels open."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathgene_rt.errors import SlideOpenError
from pathgene_rt.slides.tiff.whole import require_whole
from pathgene_rt.training.synthetic.slides import write_slide


def test_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s.svs"
    write_slide(path, (512, 512), seed=0)
    require_whole(path)
    data = path.read_bytes()
    for end in (9, 100, 2000, len(data) // 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(SlideOpenError, match="cut short"):
            require_whole(path)
        path.write_bytes(data[:end] + bytes(len(data) - end))
        if end <= 2000:  # the thumbnail at the end is stored as it is: zeros may be pixels
            with pytest.raises(SlideOpenError, match=r"cut short|zeros"):
                require_whole(path)
    path.write_bytes(data + b"more")
    require_whole(path)
