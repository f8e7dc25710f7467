"""A model as two `torch.export` graphs, pictures -> tokens and tokens -> logits, for runtimes without Transformers."""
