"""What is installed and whether it does what it should: for a hospital's IQ and OQ.

``distributions`` are the packages that have a part in it, ``records`` compares their files with the
hashes that they were installed with, ``sbom`` lists them and a bundle's models in CycloneDX;
``qualify`` puts these, the goldens and the acceptance of every engine into one document. Imports
acceptance, site and all below them.
"""
