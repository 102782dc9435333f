"""What is true: contract, cases, each formula in float64 autograd, and its bound."""
