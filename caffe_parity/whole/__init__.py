"""Whole nets: which layers of a port differ from those of a net in a real Caffe, each by itself."""
