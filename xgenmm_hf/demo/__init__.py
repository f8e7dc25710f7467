"""A web page to talk with a model about pictures; the only part that needs Gradio is ``page``."""
