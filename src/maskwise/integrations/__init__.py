"""Annotation tools and image libraries that Maskwise works in."""
