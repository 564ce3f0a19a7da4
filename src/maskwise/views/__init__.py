"""Which part of an image the network sees of a region."""
