"""Speed, measured side by side in one run: forward and backward of every way to write the loss."""
