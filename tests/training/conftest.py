"""What the tests of training need besides `tests/conftest.py`."""

import torch

torch.set_num_threads(1)  # What the tests compute is too small to be shared out.
