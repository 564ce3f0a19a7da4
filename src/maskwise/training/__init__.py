"""Making models: the only part of Maskwise that uses torch. Install it with `pip install maskwise[train]`."""
