"""Which parts of an image an answer rests on: attention of an answer, as heat over tiles, patches and pixels."""
