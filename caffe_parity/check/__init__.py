"""`parity check`: any Caffe layer against any PyTorch function."""
