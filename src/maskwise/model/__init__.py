"""The model file and what runs it: the predictor and what it returns."""
