"""Writers of named regions, a module for each format."""
