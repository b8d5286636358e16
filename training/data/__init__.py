"""What a head is trained on: slides with labels (``cohort``, ``labels``, ``targets``), their
features (``feature_files``), and what is known in training only (``privileged``).
"""
