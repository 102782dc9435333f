"""What is true: cases, each formula in float64 with the bound that belongs to it."""
