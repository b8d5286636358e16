"""Slides that an archive holds, predicted over DICOMweb (extra ``dicomweb``).

The only code that opens a connection, to the server that a user names and no other. Nothing else
imports it but its command. ``server`` says which server and how it is trusted, ``session`` makes
single requests and repeats those that may pass, ``multipart`` reads and writes their bodies;
``archive`` finds, reads and stores; ``frames`` hands the frames of a slide to the reader, ``slide``
makes a slide of them; ``work`` predicts what is new and stores the results.
"""
