"""A model as two `torch.export` graphs, images -> tokens and tokens -> logits, for runtimes without Transformers."""
