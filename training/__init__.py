"""Training of the two models: validation and the recipe of the models in `checkpoints/`."""
