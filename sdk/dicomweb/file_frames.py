"""The frames in a DICOM file, as they are stored."""

from __future__ import annotations

import io


def frames_of_file(data: bytes) -> tuple[str, list[bytes]]:
    """The transfer syntax and the frames of the file ``data``, each without the heads of its
    fragments, as servers give single ones. Raises ValueError where they are not all there.
    """
    import pydicom
    from pydicom.encaps import generate_frames

    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        syntax = dataset.file_meta.TransferSyntaxUID
        count = int(dataset.get("NumberOfFrames") or 1)
        pixels = dataset.PixelData
        if syntax.is_encapsulated:
            frames = list(generate_frames(pixels, number_of_frames=count))
        else:
            bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated
            size = bits // 8
            frames = [pixels[at : at + size] for at in range(0, count * size, size)]
            if len(pixels) < count * size:
                frames.clear()
    except Exception as error:
        # A parser of anything that a server says: what it raises is not a contract.
        raise ValueError(f"an object that is no DICOM file of frames came ({error})") from error
    if len(frames) != count or not all(frames):
        raise ValueError(f"an object of {count} frames came that does not hold them all")
    return str(syntax), frames
