"""Training parity: k steps of Caffe's own solver against k steps of torch.optim, step by step."""
