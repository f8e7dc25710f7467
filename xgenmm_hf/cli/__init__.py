"""The ``xgenmm`` command line: one file per verb, put together in ``app.py``.

Nothing here imports torch or Transformers at module level, so that ``xgenmm --help`` answers at once.
"""
