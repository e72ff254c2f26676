"""What an example, a batch, a forward pass, a loss and an evaluation are."""
