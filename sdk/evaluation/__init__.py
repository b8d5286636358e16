"""How good answers are, from labels and probabilities: in training, and at a site.

``labels`` reads tables of the truth. ``metrics`` are figures of one head, ``delong`` compares areas
under ROC curves, ``agreement`` calls with calls, ``reliability`` probabilities with shares.
``exact`` are intervals of counts. ``calibration`` fits temperatures and thresholds,
``recalibration`` what a site needs beside, ``zones`` the cut-offs that ``zones_config`` states. In
numpy alone: the runtime has no scipy. Imports heads, bundle and the root.
"""

from __future__ import annotations
