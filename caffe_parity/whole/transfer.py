"""Writes a port's state_dict with Caffe's parameters in it, and reads it back to see."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch

from caffe_parity.contract import BadRequest
from caffe_parity.engine.compare import same_bits
from caffe_parity.whole.judged import Comparison
from caffe_parity.whole.layouts import AS_IT_IS, NOTHING
from caffe_parity.whole.port import Tensors
from caffe_parity.whole.weights import of_port


def missing(compared: Comparison) -> list[str]:
    """In words, what has no counterpart: of the net, of the port, of the file of weights."""
    net, weights = compared.net, compared.weights
    said = [each.words for each in weights.findings]
    for step in net.steps:
        left = [
            name
            for name in step.params
            if name not in weights.known and (name in net.owned or step.type == "BatchNorm")
        ]
        told = any(f"the layer {step.name} has parameters" in words for words in said)
        if left and step.name not in compared.left_out and not told:
            shapes = ", ".join(f"{name} {net.params[name].shape}" for name in left)
            said.append(
                f"the layer {step.name} ({step.type}) has parameters {shapes}, and nothing of the "
                f"port holds them: --map {step.name}=MODULE says which module does, --leave-out "
                f"{step.name} that the port does without"
            )
    own = _tensors(compared.port.model)
    said += [
        f"the port's parameter {name} {tuple(own[name].shape)} gets none of the net's numbers"
        for name in weights.empty
    ]
    for name in net.unfilled:
        if name not in compared.left_out:
            said.append(f"the file of weights has no parameters for the layer {name}")
    return said


def table(compared: Comparison) -> Iterator[tuple[str, str, str]]:
    """For each tensor of the port: what of the net it is made of, its name and shape, and how."""
    own = _tensors(compared.port.model)
    for name, value in own.items():
        shape = tuple(value.shape)
        each = compared.weights.places.get(name)
        if each is None:
            yield "-", f"{name} {shape}", "the port's own"
            continue
        theirs = [f"{param} {compared.net.params[param].shape}" for param in each.params]
        words = f"{each.way} {theirs[1]}" if len(theirs) > 1 else each.way
        if each.way == NOTHING:
            words = "zeros: Caffe has one bias, not two"
        yield (*theirs, "-")[0], f"{name} {shape}", "" if each.way == AS_IT_IS else words


def _tensors(model: torch.nn.Module) -> Tensors:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def state_dict(compared: Comparison, model: torch.nn.Module) -> Tensors:
    """The port's state_dict with the net's parameters in their places, in its own precision.

    Args:
        compared: the net beside the port.
        model: the port.

    Raises:
        BadRequest: it holds what is no tensor.
    """
    params = {name: torch.from_numpy(each) for name, each in compared.net.params.items()}
    made = compared.weights.state(of_port(model), params, torch.float32)
    names = {id(each): name for name, each in _tensors(model).items()}
    found: Tensors = {}
    for key, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            raise BadRequest(
                f"the port's state_dict has {key}, {type(value).__name__}: expected tensors alone, "
                "which is what a .safetensors file can hold"
            )
        name = names.get(id(value), key)
        new = made[name] if name in compared.weights.places else value
        # A copy: the format refuses tensors that share memory.
        found[key] = new.detach().to(value.dtype).cpu().contiguous().clone()
    return found


def write(compared: Comparison, model: torch.nn.Module, file: Path) -> int:
    """Writes the weights of a port, reads them back into a copy of it, and compares the bits.

    Args:
        compared: the net beside the port.
        model: the port; it is not changed.
        file: a .safetensors file.

    Returns:
        How many tensors are in it.

    Raises:
        BadRequest: what is read back are not Caffe's numbers, or the port does not load it.
        OSError: it cannot be written.
    """
    from safetensors.torch import load_file, save_file

    state = state_dict(compared, model)
    save_file(state, file, {"format": "pt"})
    read = copy.deepcopy(model)
    try:
        read.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise BadRequest(f"the port does not load {file}: {error}") from error
    own = _tensors(read)
    for name, each in compared.weights.places.items():
        value = own[name].detach().cpu()
        params = [compared.net.params[param] for param in each.params]
        if value.dtype != torch.float32:
            words = f"{name} is {value.dtype}".replace("torch.", "")
        else:
            words = f"{name} has other bits after it was written and read"
        if not params:
            same = not value.any()
        elif (found := each.back(value.float())) is not None:
            same = same_bits(params[0].reshape(-1), found.reshape(-1).numpy())
        else:
            expected = each.of([torch.from_numpy(param) for param in params])
            same = same_bits(expected.reshape(-1).numpy(), value.float().reshape(-1).numpy())
        if not same:
            file.unlink()
            raise BadRequest(
                f"the port's {words}: it does not hold Caffe's float32 numbers; nothing is written"
            )
    return len(state)
