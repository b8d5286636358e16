"""Float16 graphs: ``mixed_precision`` makes one, ``rules`` and ``ranges`` say which nodes stay in
float32, ``gate`` decides whether it may be used.
"""
