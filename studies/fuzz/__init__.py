"""Searches for an input that a variant computes wrongly, or that Caffe does not survive.

`python -m studies.fuzz` draws programs (`strategies`): sequences of reshape, forward and
backward on one net. Each is written to disk (`folder`), run in a real Caffe or in PyTorch and held
against the reference (`execute`), and shrunk where it fails (`search`).
"""
