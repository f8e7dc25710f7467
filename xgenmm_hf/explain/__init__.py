"""The parts of an image that an answer attends to, as heat over tiles, patches and pixels."""
