"""Compares every variant with the reference, and says what a difference means."""
