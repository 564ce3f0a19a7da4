"""Setup of the training tests, in addition to `tests/conftest.py`."""

import torch

torch.set_num_threads(1)  # The tests compute too little for several threads.
