"""DICOM whole slide images (PS3.3, A.32.8).

``header`` tells in a few words what a file is.
"""
