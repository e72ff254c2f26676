"""What happens where a pack is done: inputs, training, measuring, storing."""
