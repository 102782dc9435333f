"""Writes the text of small nets, for tests."""

from __future__ import annotations


def layer(type_: str, bottoms: str, tops: str, rest: str = "") -> str:
    """A layer, its blobs separated by spaces; it is named by its type and its first top."""
    blobs = [f'bottom: "{each}"' for each in bottoms.split()]
    blobs += [f'top: "{each}"' for each in tops.split()]
    name = f"{type_}-{tops.split()[0]}"
    return f'layer {{ name: "{name}" type: "{type_}" {" ".join(blobs)} {rest} }}\n'


def input_layer(name: str, *shape: int) -> str:
    """An Input layer for one blob."""
    dims = " ".join(f"dim: {extent}" for extent in shape)
    return layer("Input", "", name, f"input_param {{ shape {{ {dims} }} }}")
