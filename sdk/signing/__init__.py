"""Who made a model: signatures of bundles, site profiles and audit trails, in the OpenSSF's format.

``keys`` makes and reads keys, ``envelope`` is DSSE in a Sigstore bundle, ``statement`` says which
files of a model were signed, ``keyring`` whose signatures count here, ``verify`` puts them
together. Needs the extra `sign`. Imports the root only.
"""
