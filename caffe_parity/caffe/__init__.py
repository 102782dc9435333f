"""Runs a real Caffe out of process: install it, find it, talk to it."""
