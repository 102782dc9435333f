"""Searches for an input that a variant computes wrongly, or that Caffe does not survive.

Hypothesis draws programs (`strategies`): sequences of reshape, forward and backward on one net.
Each runs in a real Caffe or in PyTorch and is held against the reference (`execute`). What fails,
Hypothesis shrinks and keeps (`search`). `python -m studies.fuzz` searches all variants.
"""
