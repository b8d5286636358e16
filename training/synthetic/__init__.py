"""Generated data, for demos, tests and benchmarks: nothing here was ever a patient. ``tissue``
draws it, ``slides`` and ``slide_layouts`` store it as scanners do, ``features`` and ``patches``
are bags.
"""
