"""How PyTorch computes it: the ports that people copy when they leave Caffe."""
