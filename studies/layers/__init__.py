"""Holds each counterpart of caffe_parity/ports against the layer of a real Caffe."""
