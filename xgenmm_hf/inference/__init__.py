"""Loading a checkpoint and asking it questions about images.

``source`` imports neither torch nor Transformers; ``loading`` and ``asking`` do.
"""
