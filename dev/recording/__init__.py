"""Pictures of a real run for the README: the terminal, the loss curve, a sample of the model card."""
