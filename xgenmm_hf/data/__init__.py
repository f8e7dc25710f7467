"""Training data: rows, the formats they come in, mixtures of them, and the tokens they become."""
