"""Loading a checkpoint, opening pictures and asking questions about them.

``pictures`` needs Pillow only; ``loading`` and ``asking`` load torch and Transformers when they are imported.
"""
