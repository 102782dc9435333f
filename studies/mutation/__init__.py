"""Bugs written into a copy of the project's own sources: each must be found."""
