"""Training: the only part of Maskwise that needs torch. Install with `pip install maskwise[train]`."""
