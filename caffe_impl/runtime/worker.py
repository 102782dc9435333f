"""The one file that runs inside Caffe's own Python, and the protocol that it speaks.

Standard library, NumPy and caffe only, Python 3.6 and later: this is not the suite's Python.

Start
    PYTHON worker.py REQUESTS REPLIES ARRAYS
    Three inherited file descriptors: a pipe to read, a pipe to write, an anonymous file for arrays.
    Standard output and error belong to the layers: whatever they print there is the client's to
    capture and cannot reach the protocol.

Messages
    A 4-byte big-endian length, then that many bytes of UTF-8 JSON. The worker speaks first, with
    a greeting: {"caffe", "python", "numpy", "layers": [type, ...], "pid"}, or {"error": ...}.
    Each request is {"free": offset, "ops": [op, ...]}; the reply is {"results": [result, ...]}, one
    for each op, or {"error": {"kind", "message", "traceback", "op"}} for the first that failed:
    kind "net" (the net is not one that can be run), "layer" (Python raised inside Caffe),
    "request" (the request itself is wrong). The end of the request pipe ends the worker.

Arrays
    {"offset", "shape"}: float32, C order, in the arrays file. A request's arrays lie below
    "free"; a reply's lie from there on, and the worker makes the file longer where it must. They
    are valid until the next request.

Ops
    {"op": "load", "library"}
        Loads a compiled layer, a shared library that registers it; once, however often it is sent.
    {"op": "net", "text", "edits", "path": [folder, ...]}
        Builds a net in phase TRAIN; the one before is dropped. Result {"inputs": {blob: shape},
        "losses": [blob, ...], "text": the net as it was edited}. Edits, all optional:
          "shapes": {input: shape}     the shape of an input
          "same": {input: input}       the first input goes; its readers read the second
          "gradients": [input, ...]    exactly these inputs get a gradient: a Bias of 0 is put behind
                                       each, and Caffe asks its reader for the diff by itself
          "force_backward": true       the net's own switch instead
          "loss_weight": number        of the one layer that is a loss
          "append": text               layers added behind all these edits
    {"op": "reshape", "shapes": {input: shape}}
    {"op": "set", "blob", "array"}               writes an input's data
    {"op": "forward"}, {"op": "backward"}        result {"seconds"}
    {"op": "poison", "value"}                    fills every diff but those of the losses
    {"op": "data", "blob"}, {"op": "diff", "blob"}   result {"array"}
    {"op": "loss"}                               result {"array"}: the data of the first loss
    {"op": "maps"}                               result {"libraries": [path, ...]} that are loaded
"""

import ctypes
import json
import mmap
import os
import signal
import struct
import sys
import tempfile
import time
import traceback

import numpy as np

ALIGNMENT = 64  # bytes; a cache line, and enough for every vector instruction


class NetError(Exception):
    """The net is not one that can be run; the message says why."""


class RequestError(Exception):
    """The request is wrong; the message says why."""


class Arrays:
    """The shared file, mapped again whenever it has grown."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.map = None
        self.free = 0

    def _reach(self, end):
        size = os.fstat(self.descriptor).st_size
        if end > size:
            os.ftruncate(self.descriptor, end)
            size = end
        if size and (self.map is None or len(self.map) < end):
            self.map = mmap.mmap(self.descriptor, size)

    def _view(self, offset, shape):
        count = int(np.prod(shape, dtype=np.int64))
        self._reach(offset + 4 * count)
        if not count:
            return np.zeros(shape, np.float32)
        return np.frombuffer(self.map, np.float32, count, offset).reshape(shape)

    def read(self, reference):
        return self._view(reference["offset"], reference["shape"])

    def write(self, array):
        reference = {"offset": self.free, "shape": list(array.shape)}
        self._view(self.free, array.shape)[...] = array
        self.free += -(-4 * array.size // ALIGNMENT) * ALIGNMENT
        return reference


class Worker:
    """One net at a time, and one method for each op."""

    def __init__(self, caffe, arrays):
        self.caffe = caffe
        self.arrays = arrays
        self.net = None
        self.sources = {}  # input -> the blob that its data is written to
        self.losses = []
        self.libraries = set()

    def run(self, request):
        self.arrays.free = request["free"]
        results = []
        for index, op in enumerate(request["ops"]):
            method = getattr(self, "op_" + str(op.get("op")), None)
            try:
                if method is None:
                    raise RequestError("unknown op %r" % op.get("op"))
                results.append(method(**{k: v for k, v in op.items() if k != "op"}))
            except BaseException as error:  # a layer may raise SystemExit, too
                return {"error": described(error, index)}
        return {"results": results}

    def op_load(self, library):
        if library not in self.libraries:
            try:
                ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise RequestError(
                    "the compiled layer does not fit this Caffe (%s); build it anew, with the "
                    "headers, the compiler and the libraries of this very Caffe" % error
                )
            self.libraries.add(library)
        return {}

    def op_net(self, text, edits=None, path=()):
        self.net = None
        proto = parsed(text)
        self.sources, self.losses = edited(proto, edits or {})
        for folder in path:
            if folder not in sys.path:
                sys.path.insert(0, folder)
        from google.protobuf import text_format

        final = text_format.MessageToString(proto)
        # An unlinked file: nothing stays behind, also when Caffe aborts.
        with tempfile.TemporaryFile() as file:
            file.write(final.encode())
            file.flush()
            self.net = self.caffe.Net("/proc/self/fd/%d" % file.fileno(), self.caffe.TRAIN)
        shapes = {name: list(self.net.blobs[blob].shape) for name, blob in self.sources.items()}
        return {"inputs": shapes, "losses": self.losses, "text": final}

    def op_reshape(self, shapes):
        for name, shape in shapes.items():
            self.blob(self.sources.get(name, name)).reshape(*shape)
        self.net.reshape()
        return {}

    def op_set(self, blob, array):
        target = self.blob(self.sources.get(blob, blob))
        value = self.arrays.read(array)
        if tuple(target.shape) != value.shape:
            raise RequestError(
                "input %r has shape %s, the array %s" % (blob, tuple(target.shape), value.shape)
            )
        target.data[...] = value
        return {}

    def op_forward(self):
        start = time.perf_counter()
        self.net.forward()
        return {"seconds": time.perf_counter() - start}

    def op_backward(self):
        start = time.perf_counter()
        self.net.backward()
        return {"seconds": time.perf_counter() - start}

    def op_poison(self, value):
        for name, blob in self.net.blobs.items():
            if name not in self.losses:
                blob.diff[...] = value
        return {}

    def op_data(self, blob):
        return {"array": self.arrays.write(self.blob(blob).data)}

    def op_diff(self, blob):
        return {"array": self.arrays.write(self.blob(blob).diff)}

    def op_loss(self):
        return self.op_data(self.losses[0])

    def op_maps(self):
        with open("/proc/self/maps") as maps:
            libraries = {line.split()[-1] for line in maps if ".so" in line}
        return {"libraries": sorted(libraries)}

    def blob(self, name):
        if self.net is None:
            raise RequestError("there is no net yet")
        if name not in self.net.blobs:
            raise RequestError("the net has no blob %r; it has %s" % (name, list(self.net.blobs)))
        return self.net.blobs[name]


def parsed(text):
    """A NetParameter from prototxt text; Caffe itself would abort on a malformed one."""
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    proto = caffe_pb2.NetParameter()
    try:
        text_format.Merge(text, proto)
    except text_format.ParseError as error:
        raise NetError("not a valid net prototxt: %s" % error)
    if proto.layers:
        raise NetError(
            "a net in the format before Caffe 1.0 (`layers`, not `layer`): "
            "convert it with Caffe's upgrade_net_proto_text first"
        )
    if not proto.layer:
        raise NetError("the net has no layer")
    modernise_inputs(proto)
    return proto


def modernise_inputs(proto):
    """Turns `input:` fields into Input layers, which Caffe does as well when it loads a net."""
    for index, name in enumerate(proto.input):
        layer = proto.layer.add(name=name, type="Input", top=[name])
        shape = layer.input_param.shape.add()
        if index < len(proto.input_shape):
            shape.CopyFrom(proto.input_shape[index])
        else:
            shape.dim.extend(proto.input_dim[4 * index : 4 * index + 4])
    if proto.input:
        added = len(proto.input)
        layers = list(proto.layer)
        del proto.layer[:]
        proto.layer.extend(layers[-added:] + layers[:-added])
        for field in ("input", "input_shape", "input_dim"):
            proto.ClearField(field)


def is_loss(layer):
    """Whether Caffe takes it for a loss: a type named *Loss defaults to weight 1."""
    return layer.type.endswith("Loss") or any(layer.loss_weight)


def input_layer(proto, name):
    """The Input layer that makes a blob."""
    layers = [layer for layer in proto.layer if layer.type == "Input"]
    for layer in layers:
        if name in layer.top:
            return layer
    names = [top for layer in layers for top in layer.top]
    raise NetError("the net has no input %r; its inputs are %s" % (name, ", ".join(names)))


def edited(proto, edits):
    """Carries out the edits; returns where each input's data goes, and the losses' tops."""
    for name, shape in edits.get("shapes", {}).items():
        set_shape(input_layer(proto, name), name, shape)
    for name, target in edits.get("same", {}).items():
        merge_input(proto, name, target)
    losses = [layer for layer in proto.layer if is_loss(layer)]
    if not losses:
        raise NetError(
            "the net has no loss: no layer's type ends in Loss and none has a loss_weight "
            "(Python layers and Reduction need one written out)"
        )
    if "loss_weight" in edits:
        if len(losses) > 1:
            raise NetError(
                "the net has %d losses (%s), so which one gets the loss weight is unknown"
                % (len(losses), ", ".join(layer.name for layer in losses))
            )
        losses[0].loss_weight[:] = [edits["loss_weight"]]
    tops = [top for layer in losses for top in layer.top]
    if "append" in edits:
        added = parsed(edits["append"])
        proto.layer.extend(added.layer)
        tops += [top for layer in added.layer if is_loss(layer) for top in layer.top]
    inputs = [top for layer in proto.layer if layer.type == "Input" for top in layer.top]
    sources = {name: name for name in inputs}
    for name in edits.get("gradients", ()):
        sources[name] = put_bias_behind(proto, name)
    if edits.get("force_backward"):
        proto.force_backward = True
    return sources, tops


def set_shape(layer, name, shape):
    shapes = layer.input_param.shape
    while len(shapes) < len(layer.top):  # one shape may stand for all tops
        shapes.add().CopyFrom(shapes[0])
    shapes[list(layer.top).index(name)].dim[:] = shape


def merge_input(proto, name, target):
    layer = input_layer(proto, name)
    input_layer(proto, target)
    if len(layer.top) > 1:
        raise NetError("input %r shares its Input layer with others" % name)
    proto.layer.remove(layer)
    for reader in proto.layer:
        reader.bottom[:] = [target if bottom == name else bottom for bottom in reader.bottom]


def put_bias_behind(proto, name):
    """The input becomes NAME_input; a Bias filled with 0 makes NAME from it.

    A Bias has a parameter that learns, so Caffe itself wants the gradient of its top: of this blob
    and of no other one.
    """
    source = name + "_input"
    layer = input_layer(proto, name)
    layer.top[:] = [source if top == name else top for top in layer.top]
    layers = list(proto.layer)
    index = layers.index(layer) + 1
    del proto.layer[:]
    proto.layer.extend(layers[:index])
    bias = proto.layer.add(name=name + "_bias", type="Bias", bottom=[source], top=[name])
    bias.bias_param.axis = 0
    bias.bias_param.num_axes = 0
    bias.bias_param.filler.type = "constant"
    bias.bias_param.filler.value = 0
    proto.layer.extend(layers[index:])
    return source


def described(error, index):
    """An exception as data."""
    kinds = {NetError: "net", RequestError: "request"}
    message = str(error) if type(error) in kinds else "%s: %s" % (type(error).__name__, error)
    return {
        "kind": kinds.get(type(error), "layer"),
        "message": message,
        "traceback": "".join(
            traceback.format_exception(type(error), error, error.__traceback__)
        ),
        "op": index,
    }


def read_exactly(descriptor, count):
    """That many bytes, or None at the end of the pipe."""
    data = b""
    while len(data) < count:
        piece = os.read(descriptor, count - len(data))
        if not piece:
            return None
        data += piece
    return data


def receive(descriptor):
    head = read_exactly(descriptor, 4)
    if head is None:
        return None
    body = read_exactly(descriptor, struct.unpack(">I", head)[0])
    return None if body is None else json.loads(body.decode())


def send(descriptor, message):
    body = json.dumps(message).encode()
    data = struct.pack(">I", len(body)) + body
    while data:
        data = data[os.write(descriptor, data) :]


def die_with_parent():
    """Asks Linux to kill this process when the client dies, however it dies."""
    pr_set_pdeathsig = 1  # <sys/prctl.h>
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main():
    requests, replies, arrays = (int(argument) for argument in sys.argv[1:4])
    if "--die-with-parent" in sys.argv:
        die_with_parent()
    try:
        import caffe
    except BaseException as error:
        send(replies, {"error": described(error, None)})
        return
    caffe.set_mode_cpu()
    send(
        replies,
        {
            "caffe": getattr(caffe, "__version__", "unknown"),
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "layers": list(caffe.layer_type_list()),
            "pid": os.getpid(),
        },
    )
    worker = Worker(caffe, Arrays(arrays))
    while True:
        request = receive(requests)
        if request is None:
            return
        send(replies, worker.run(request))


if __name__ == "__main__":
    main()
