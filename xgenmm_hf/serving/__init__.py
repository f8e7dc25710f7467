"""An OpenAI-compatible server: requests -> prompts -> one continuously batched engine -> answers.

``app`` and ``server`` need FastAPI and uvicorn (the ``serve`` extra); everything else needs only what inference needs.
"""
