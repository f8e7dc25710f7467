"""A checkpoint as two `torch.export` graphs: `python -m export_graphs MODEL OUT`, with `examples` on the path."""
