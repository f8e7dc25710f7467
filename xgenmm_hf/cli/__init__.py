"""The ``xgenmm`` command line: a file a verb, put together in ``app.py``.

Nothing here imports torch or Transformers at module level, so that ``xgenmm --help`` answers at once.
"""
