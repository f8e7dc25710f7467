"""A web page to talk with a model about images; the only part that needs Gradio is ``page``."""
