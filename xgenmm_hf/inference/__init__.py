"""Loading a checkpoint, opening images and asking questions about them.

``images`` needs Pillow only; ``loading`` and ``asking`` load torch and Transformers when they are imported.
"""
