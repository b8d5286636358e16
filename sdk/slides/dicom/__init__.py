"""DICOM whole slide images (PS3.3, A.32.8): the files of a series, read frame by frame.

``header`` tells in a few words what a file is. ``instance`` reads one, ``frames`` finds where its
frames lie, ``transfer_syntax`` how they are decoded; ``levels`` makes a pyramid, ``opening``
a slide. All but ``header`` needs the extra ``dicom``.
"""
