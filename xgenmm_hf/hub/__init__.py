"""A checkpoint folder to a Hub repository: what goes along, its card, and the one commit that carries both."""
