"""The xGen-MM model files that travel with a checkpoint."""
