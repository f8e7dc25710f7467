"""Training data: rows, the formats they come in, mixtures of them, and images drawn for tests and proofs.

`rows` is the one schema, `adapters` turns public formats into it, `mixture` puts files together, `preview` shows what
a mixture holds. `scene`, `render`, `language`, `questions`, `pairs` and `requests` draw images and talk about them:
pure functions of a scene and a seed, so nothing needs to be stored or downloaded.
"""
