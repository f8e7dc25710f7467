"""Before the tests of this folder import Transformers, which imports torchvision where it is installed."""

import torchvision_names  # noqa: F401
