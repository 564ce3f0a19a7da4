"""What is done with a model: label, evaluate, fit, embed."""
