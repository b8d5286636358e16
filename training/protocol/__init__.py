"""How a head is judged: ``folds``, ``cross_validation`` over them, ``metrics``, ``calibration`` and
the ``leaderboard``; ``plan`` says what is trained on, ``run_folder`` where it lies.
"""
