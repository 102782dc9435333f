"""What is true: the contract, the cases, each formula in float64 autograd, and its rounding bound."""
