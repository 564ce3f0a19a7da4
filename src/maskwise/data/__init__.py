"""Files to arrays: images, masks, and the annotations that describe regions."""
