"""The one file that runs inside Caffe's own Python.

Standard library, NumPy and caffe only, Python 3.6 and later: this is not the suite's Python. It is
started as

    PYTHON worker.py REQUESTS REPLIES ARRAYS GROWTH [--gpu] [--die-with-parent]

with three inherited file descriptors. docs/worker.md has the protocol: messages, arrays, and the
ops, each of which is a method `op_NAME` of `Worker`, with the fields of its message as arguments.
"""

import ctypes
import importlib.machinery
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings

import numpy as np

ALIGNMENT = 64  # bytes; a cache line, and enough for every vector instruction
MOST_KNOWN = 64  # nets whose text is kept, each in an open file; requests that are kept decoded
SPIN = 1e-4  # seconds of looking for a request before sleeping: to be woken takes some 2e-5


class NetError(Exception):
    """The net is not one that can be run; the message says why."""


class RequestError(Exception):
    """The request is wrong; the message says why."""


class Stale(Exception):
    """A module that is imported is no longer what its name stands for: a fresh process must."""


class NoCuda(Exception):
    """The Caffe was built without CUDA; the message says how that is known."""


class NoDevice(Exception):
    """The driver offers no CUDA device; the message says what it said."""


class Arrays:
    """The shared file, mapped again whenever it has grown."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.map = None
        self.free = 0

    def _reach(self, end):
        size = os.fstat(self.descriptor).st_size
        if end > size:
            os.posix_fallocate(self.descriptor, size, end - size)  # an error now, no SIGBUS later
            size = end
        if size and (self.map is None or len(self.map) < end):
            self.map = mmap.mmap(self.descriptor, size)

    def _view(self, offset, shape):
        count = 1
        for each in shape:
            count *= each
        if self.map is None or len(self.map) < offset + 4 * count:
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


class Modules:
    """What layers have imported: Python imports a module of one name once, whatever happens to it.

    Those that are there from the beginning, Caffe's own, are taken to stay as they are.
    """

    def __init__(self):
        self.first = frozenset(sys.modules)
        self.found = {}  # name -> its file, and the file's stamp
        self.count = len(sys.modules)
        self.path = []  # the folders that are searched for a net's layers
        self.layers = None  # those folders, and the modules of the net's layers
        self.habits = habits()
        self.changed = None  # whose layers have changed them

    def remember(self):
        """Takes down what has been imported since the last call, before a file can change."""
        if len(sys.modules) == self.count:
            return
        self.count = len(sys.modules)
        for name in set(sys.modules) - self.first - set(self.found):
            file = getattr(sys.modules[name], "__file__", None)
            if file:
                self.found[name] = file, stamp(file)

    def look(self):
        """Takes down whose layers have set what holds for all."""
        now = habits()
        if now != self.habits:
            self.habits, self.changed = now, self.layers

    def search(self, path, names):
        """Looks for the modules of these names in these folders, and in none of a net before.

        Raises:
            Stale: one that is imported has changed, or another one is meant by its name, or
                layers of another net have set what holds for all.
        """
        path = list(path)
        self.layers = path, names
        if self.changed not in (None, self.layers):
            raise Stale("layers of %s have set what holds for all" % ", ".join(self.changed[1]))
        moved = path != self.path
        if moved:
            sys.path[:] = path + [each for each in sys.path if each not in self.path]
            self.path = path
        for name, (file, _) in list(self.found.items()) if moved else ():
            if "." not in name:
                spec = importlib.machinery.PathFinder.find_spec(name)
                if spec is None:
                    self.forget(name)
                elif spec.origin != file:
                    raise Stale("%s is %s now" % (name, spec.origin))
        for file, known in self.found.values():
            if stamp(file) != known:
                raise Stale("%s has changed" % file)

    def forget(self, name):
        """No layer can import what no folder has, whatever those of other folders have imported."""
        for each in list(self.found):
            if each.split(".")[0] == name:
                del self.found[each]
                sys.modules.pop(each, None)
        self.count = None


def habits():
    """What Python code sets for all that runs after it, and nets of other layers do not inherit."""
    variables = dict(os.environ._data)  # undecoded, which takes a hundredth of the time
    return np.geterr(), sys.getrecursionlimit(), list(warnings.filters), variables


def stamp(file):
    """What differs between a file as it was and as it is; None where there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Request:
    """A request and its reply; both often come again as they are, with other numbers in the arrays.

    Attributes:
        free: the place behind its arrays.
        calls: its ops, as methods and arguments.
        reply: the last reply to it, and the message that it makes.
    """

    def __init__(self, free, calls):
        self.free, self.calls = free, calls
        self.reply = None, b""

    def packed(self, reply):
        """The message that a reply makes."""
        if reply != self.reply[0]:
            self.reply = reply, packed(reply)
        return self.reply[1]


class Worker:
    """One net at a time, and one method for each op."""

    def __init__(self, caffe, arrays):
        self.caffe = caffe
        self.arrays = arrays
        self.net = None
        self.solver = None
        self.sources = {}  # input -> the blob that its data is written to
        self.losses = []
        self.last = 0  # the number of the net's last layer
        self.numbers = {}  # blob -> its number, by which pycaffe finds it faster than by its name
        self.weights = {}  # top -> its loss weight
        self.written = []  # the blobs whose diffs a backward writes
        self.libraries = {}  # path -> the library, None if it cannot be told to pause; its types
        self.schemas = {}  # path -> the class of nets in it
        self.in_use = []  # the paths of those that this request has loaded
        self.given = {}  # input or parameter -> its blob, and what was set
        self.upstream = {}  # top -> the diff that was set
        self.said = {}  # layer -> its LayerParameter
        self.known = {}  # text and edits -> the net that they make
        self.requests = {}  # a request's message -> the request
        self.modules = Modules()
        self.pid = os.getpid()

    def answer(self, message):
        """The message that answers one."""
        if message not in self.requests:
            if len(self.requests) >= MOST_KNOWN:
                self.requests.pop(next(iter(self.requests)))
            said = json.loads(message.decode())
            self.requests[message] = Request(said["free"], [self.call(op) for op in said["ops"]])
        request = self.requests[message]
        return request.packed(self.run(request))

    def call(self, op):
        """The method of an op, and its arguments."""
        method = getattr(self, "op_" + str(op.get("op")), None)
        if method is None:
            return self.unknown, {"name": op.get("op")}
        return method, {k: v for k, v in op.items() if k != "op"}

    def unknown(self, name):
        raise RequestError("unknown op %r" % name)

    def run(self, request):
        self.arrays.free = request.free
        try:
            return self.results(request.calls)
        finally:
            self.net = self.solver = None
            self.given = {}
            self.upstream = {}
            self.modules.remember()
            for each in reversed(self.in_use):
                library, _ = self.libraries[each]
                if library is not None:
                    library.caffe_parity_use(0)
            self.in_use = []

    def results(self, calls):
        results = []
        for index, (method, arguments) in enumerate(calls):
            try:
                result = method(**arguments) or {}
            except BaseException as error:  # a layer may raise SystemExit, too
                self.leave_if_forked()
                return {"error": described(error, index)}
            self.leave_if_forked()
            results.append(result)
        return {"results": results}

    def leave_if_forked(self):
        """Ends a child that a layer forked and that came back here: only one may answer."""
        if os.getpid() != self.pid:
            os._exit(0)

    def op_load(self, library):
        known = set(self.caffe.layer_type_list())
        if library not in self.libraries:
            try:
                # What is in ours must not be found for another library, which may have classes of
                # the same names; who builds one elsewhere loads it as Caffe's users do.
                scope = ctypes.RTLD_LOCAL if is_ours(library) else ctypes.RTLD_GLOBAL
                loaded = ctypes.CDLL(library, scope)
            except OSError as error:
                raise NetError(
                    "the compiled layer does not fit this Caffe (%s); build it anew, with the "
                    "headers, the compiler and the libraries of this very Caffe" % error
                )
            if scope == ctypes.RTLD_LOCAL:
                loaded.caffe_parity_types.restype = ctypes.c_char_p
                types = loaded.caffe_parity_types().decode().split()
                loaded.caffe_parity_use(0)
            else:
                types = sorted(set(self.caffe.layer_type_list()) - known)
                loaded = None
            self.libraries[library] = (loaded, types)
        loaded, types = self.libraries[library]
        if library in self.in_use:
            return {"types": types, "replaced": []}
        others = [each for path in self.in_use for each in self.libraries[path][1]]
        twice = [each for each in types if (types + others).count(each) > 1]
        if twice:
            raise NetError("the layer type %s is registered twice" % twice[0])
        self.in_use.append(library)
        if loaded is None:
            return {"types": types, "replaced": []}
        loaded.caffe_parity_use(1)
        return {"types": types, "replaced": [each for each in types if each in known]}

    def op_net(self, text, edits=None, path=()):
        prepared = self.prepared(text, edits, path)
        self.net = self.caffe.Net(prepared.path, getattr(self.caffe, prepared.phase))
        self.said = prepared.layers
        weights = edits.get("weights") if edits else None
        named, others = self.with_weights(weights) if weights else ([], [])
        return dict(self.described_net(prepared), named=named, others=others)

    def with_weights(self, file):
        """Copies parameters from a .caffemodel; returns the layers that get some, and others."""
        saved, proto = read_weights(file)
        if widened(proto):
            with File(proto.SerializeToString()) as written:
                self.net.copy_from(written.path)
        else:
            self.net.copy_from(file)
        named = [name for name in self.net.params if name in saved]
        return named, sorted(saved - set(named))

    def op_solver(self, solver, text, edits=None, path=()):
        parameter = solver_parameter(solver)
        prepared = self.prepared(text, edits, path)
        parameter.train_net_param.CopyFrom(prepared.proto)
        with File(printed(parameter)) as file:
            self.solver = self.caffe.get_solver(file.path)
        self.net = self.solver.net
        return dict(self.described_net(prepared), learned=learned(prepared.proto, self.net))

    def prepared(self, text, edits, path):
        """The net with its edits; its Python layers can be imported from now on."""
        self.net = self.solver = None
        self.given = {}
        key = text, json.dumps(edits, sort_keys=True) if edits else ""
        if key not in self.known:
            if len(self.known) >= MOST_KNOWN:
                self.known.pop(next(iter(self.known))).close()
            self.known[key] = Prepared(text, edits or {})
        prepared = self.known[key]
        self.sources, self.losses, self.weights = prepared.where
        if path:
            self.modules.search(path, prepared.modules)
        return prepared

    def described_net(self, prepared):
        self.written, self.last, self.numbers, said = prepared.said(self.net, self.in_use)
        return said

    def op_describe(self, text, fed=(), phase="TRAIN"):
        unshaped = {}
        proto = parsed(text, fed, unshaped, phase)
        inputs = {
            top: declared_shape(layer, index)
            for layer in proto.layer
            if layer.type == "Input"
            for index, top in enumerate(layer.top)
        }
        in_place = {blob for layer in proto.layer for blob in layer.top if blob in layer.bottom}
        return {
            "inputs": inputs,
            "unshaped": unshaped,
            "together": together(proto),
            "transforms": transforms(message("NetParameter", text, "net"), phase),
            "losses": list(weights_of(proto)),
            "weights": weights_of(proto),
            "phase": phase_of(proto),
            "undriven": sorted(undriven(proto)),
            "no_backward": sorted(no_backward(proto)),
            "indicators": [
                layer.bottom[1]
                for layer in proto.layer
                if layer.type in ("LSTM", "RNN") and len(layer.bottom) > 1
            ],
            "sources": [
                [layer.name, list(layer.top)]
                for layer in proto.layer
                if layer.type == "Python" and not layer.bottom
            ],
            "outputs": outputs(proto),
            "layers": [[layer.name, layer.type] for layer in proto.layer],
            "in_place": sorted(in_place),
            "keep_statistics": keep_statistics(proto),
            "running": [
                layer.lrn_param.beta
                for layer in proto.layer
                if layer.type == "LRN" and not layer.lrn_param.norm_region  # ACROSS_CHANNELS
            ],
            "modules": [each.python_param.module for each in proto.layer if each.type == "Python"],
        }

    def op_messages(self, text, fed=(), phase=None):
        proto = parsed(text, fed, phase=phase) if phase else message("NetParameter", text, "net")
        if proto.layers:
            upgrade(proto)
        return {"layers": [as_data(layer) for layer in proto.layer]}

    def op_fields(self):
        from caffe.proto import caffe_pb2

        found = {}
        for each in (caffe_pb2.NetParameter, caffe_pb2.LayerParameter):
            add_fields(each.DESCRIPTOR, found)
        return {"messages": found}

    def op_mean(self, file):
        from caffe.proto import caffe_pb2
        from google.protobuf.message import DecodeError

        blob = caffe_pb2.BlobProto()
        try:
            with open(file, "rb") as opened:
                blob.ParseFromString(opened.read())
            array = self.caffe.io.blobproto_to_array(blob)[0]
        except (DecodeError, ValueError, IndexError, IOError) as error:
            raise RequestError("the mean %s is no .binaryproto: %s" % (file, error))
        return {"array": self.arrays.write(array)}

    def op_alone(self, text, fed, phase, names, shapes):
        proto = parsed(text, fed, {}, phase)
        kept = [layer for layer in proto.layer if layer.name in names]
        made = {top for layer in kept for top in layer.top}
        inputs = []
        for layer in kept:
            inputs += [name for name in layer.bottom if name not in made or name in layer.top]
        inputs = list(dict.fromkeys(inputs))
        alone = type(proto)(name=", ".join(names))
        for name, shape in zip(inputs, shapes):
            layer = alone.layer.add(name=name, type="Input", top=[name])
            layer.input_param.shape.add(dim=shape)
        for layer in kept:
            alone.layer.add().CopyFrom(layer)
        return {"text": printed(alone), "inputs": inputs}

    def op_plain(self, text, schema):
        if schema not in self.schemas:
            self.schemas[schema] = net_class(schema)
        return {"text": plain(merged(self.schemas[schema](), text, "net"))}

    def op_upgrade(self, text):
        proto = message("NetParameter", text, "net")
        if any(each.HasField("layer") for each in proto.layers):
            proto = upgraded_v0(self.caffe, proto)
        return {"text": printed(proto)}

    def op_reshape(self, shapes):
        for name, shape in shapes.items():
            self.blob(self.sources.get(name, name)).reshape(*shape)
        self.net.reshape()

    def op_set(self, blob, array):
        source = self.sources.get(blob, blob)
        target, value = self.blob(source), self.arrays.read(array)
        write("input %r" % blob, target, value)
        self.given[blob] = (target if source == blob else self.blob(blob), value)

    def op_set_diff(self, blob, array):
        target, value = self.blob(blob), self.arrays.read(array)
        if target.count != value.size:  # (1) and () are both a scalar's shape
            raise RequestError(
                "blob %r has shape %s, the array %s" % (blob, tuple(target.shape), value.shape)
            )
        self.set_upstream(blob, value.reshape(tuple(target.shape)))

    def op_fill_diff(self, blob, value):
        self.set_upstream(blob, value)

    # pycaffe's own forward and backward also read the outputs and the inputs' diffs, from a GPU
    # over its bus, and look for the names of both.

    def op_forward(self, layer=None):
        first, last = (0, self.last) if layer is None else (layer, layer)
        self.net._forward(first, last)

    def op_backward(self, layer=None):
        last, first = (self.last, 0) if layer is None else (layer, layer)
        self.net._backward(last, first)

    def op_seed(self, seed):
        self.caffe.set_random_seed(seed)

    def op_graph(self):
        blobs = list(self.net._blob_names)
        layers = [
            {
                "name": name,
                "type": self.net.layers[index].type,
                "bottoms": [blobs[each] for each in self.net._bottom_ids(index)],
                "tops": [blobs[each] for each in self.net._top_ids(index)],
                "fields": fields_of(self.said[name]) if name in self.said else {},
                "said": as_data(self.said[name]) if name in self.said else {},
            }
            for index, name in enumerate(self.net._layer_names)
        ]
        return {
            "layers": layers,
            "shapes": {name: list(blob.shape) for name, blob in self.net.blobs.items()},
            "written": self.written,
        }

    def op_step(self):
        if self.solver is None:
            raise RequestError("there is no solver yet")
        self.solver.step(1)

    def op_total(self):
        total = sum(
            weight * self.blob(name).data.sum(dtype=np.float64)
            for name, weight in self.weights.items()
        )
        return {"array": self.arrays.write(np.array(total, np.float32))}

    def op_weigh(self, factor):
        for name, weight in self.weights.items():
            self.set_upstream(name, factor * weight)

    def op_poison(self, value):
        for name in self.written:
            self.net.blobs[name].diff[...] = value

    def op_data(self, blob):
        return {"array": self.arrays.write(self.blob(blob).data)}

    def op_diff(self, blob):
        return {"array": self.arrays.write(self.blob(blob).diff)}

    def op_param(self, layer, index):
        return {"array": self.arrays.write(self.net.params[layer][index].data)}

    def op_set_param(self, layer, index, array):
        blobs = self.net.params.get(layer, ())
        if index >= len(blobs):
            raise RequestError(
                "the net has no parameter %s[%d]; its layers with parameters are %s"
                % (layer, index, ", ".join(self.net.params) or "none")
            )
        target, value = blobs[index], self.arrays.read(array)
        name = "%s[%d]" % (layer, index)
        write("parameter " + name, target, value)
        self.given[name] = (target, value)

    def op_param_diff(self, layer, index):
        return {"array": self.arrays.write(self.net.params[layer][index].diff)}

    def op_clear_params(self):
        self.net.clear_param_diffs()

    def op_loss(self):
        return self.op_data(self.losses[0])

    def op_changed(self):
        # Asked for, and not always looked at, because reading a blob costs a transfer from a GPU.
        return {
            "blobs": [name for name, (blob, value) in self.given.items() if differ(blob, value)],
            "diffs": [
                name
                for name, value in self.upstream.items()
                if not np.array_equal(self.blob(self.weight_of(name)).diff, value)
            ],
        }

    def op_maps(self):
        return {"libraries": mapped_libraries()}

    def op_memory(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        status = driver().cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        if status:
            raise RequestError("no CUDA device is in use (the driver's error %d)" % status)
        return {"free": free.value, "total": total.value}

    def op_time(self, budget):
        def once():
            self.op_forward()
            self.op_backward()

        measure = gpu_seconds if "--gpu" in sys.argv else cpu_seconds
        warm = min(measure(once) for _ in range(2))
        repeats = int(min(max(budget / max(warm, 1e-9), 3), 300))
        return {"seconds": [measure(once) for _ in range(repeats)]}

    def op_launches(self):
        if LAUNCH_COUNTER is None:
            raise RequestError("PARITY_LAUNCH_COUNTER is not set, so no kernel was counted")
        return {"launches": LAUNCH_COUNTER.parity_take_launches()}

    def set_upstream(self, name, value):
        diff = self.blob(self.weight_of(name)).diff
        diff[...] = value
        self.upstream[name] = diff.copy()

    def weight_of(self, name):
        """The blob whose diff is the weight of a top: of a loss that layers read, too, a copy.

        Caffe gives the weight to the first copy, and Split writes the diff of the loss itself
        (insert_splits.cpp).
        """
        if name in self.weights:
            blobs = list(self.net._blob_names)
            for index, layer in enumerate(self.net.layers):
                if layer.type == "Split" and blobs[self.net._bottom_ids(index)[0]] == name:
                    return blobs[self.net._top_ids(index)[0]]
        return name

    def blob(self, name):
        if self.net is None:
            raise RequestError("there is no net yet")
        if name not in self.numbers:
            raise RequestError("the net has no blob %r; it has %s" % (name, list(self.numbers)))
        return self.net._blobs[self.numbers[name]]


def write(name, blob, value):
    """Sets a blob's data; `name` is for the message where the array has another shape."""
    data = blob.data
    if data.shape != value.shape:
        words = "%s has shape %s, the array %s"
        raise RequestError(words % (name, data.shape, value.shape))
    data[...] = value


def is_ours(library):
    """Whether a library is one that caffe_parity/caffe/plugin.py has built."""
    if not os.path.isfile(library):
        return False
    with open(library, "rb") as file:
        return b"caffe_parity_types" in file.read()


def differ(blob, value):
    """Whether a blob holds other numbers than were set; not where it was reshaped since."""
    data = blob.data
    if data.shape != value.shape or np.array_equal(data, value):
        return False
    return not np.all((data == value) | (np.isnan(data) & np.isnan(value)))


class File:
    """A file with this text, or these bytes; it vanishes with the process, if Caffe aborts too."""

    def __init__(self, text):
        if hasattr(os, "memfd_create"):  # Python 3.8
            self.file = os.fdopen(os.memfd_create("parity-net"), "w+b")
        else:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115  # it is closed by `close`
        self.file.write(text if isinstance(text, bytes) else text.encode())
        self.file.flush()
        self.path = "/proc/self/fd/%d" % self.file.fileno()
        self.close = self.file.close

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Prepared(File):
    """A net's text with its edits, as a file that Caffe reads; what it is need be found but once.

    Reading and writing prototxt takes Python's protobuf ten times as long as Caffe takes for a
    small net, and the same net is built again and again.
    """

    def __init__(self, text, edits):
        self.proto = parsed(text, edits.get("shapes", ()), phase=edits.get("phase", "TRAIN"))
        sources, losses = edited(self.proto, edits)
        added = weights_of(parsed(edits["append"])) if "append" in edits else {}
        weights = {k: each for k, each in weights_of(self.proto).items() if k not in added}
        self.where = sources, losses, weights
        self.layers = {layer.name: layer for layer in self.proto.layer}
        layers = [each for each in self.proto.layer if each.type == "Python"]
        self.modules = sorted({x.python_param.module for x in layers if not is_keeper(x)})
        self.phase = phase_of(self.proto)
        self.found = {}
        super().__init__(printed(self.proto))

    def said(self, net, loaded):
        """What a backward writes, the last layer's number, those of all blobs, and what is said.

        A Python layer may have another number of parameters, each time that it is built. One that
        is loaded may, or have other tops, than that type has in Caffe or in another library.
        """
        key, counts = "", []
        if self.modules or loaded or key not in self.found:
            counts = [[layer, len(blobs)] for layer, blobs in net.params.items()]
        if self.modules or loaded:
            key = str((counts, loaded))
        if key not in self.found:
            sources, losses, _ = self.where
            ours = {name + "_bias" for name, blob in sources.items() if blob != name}
            said = {
                "inputs": {name: list(net.blobs[blob].shape) for name, blob in sources.items()},
                "losses": losses,
                "params": [[k, i] for k, count in counts if k not in ours for i in range(count)],
                "owned": [each for each in owned(self.proto, net) if each[0] not in ours],
                "kept": [[k, i] for k in keep_statistics(self.proto) for i in range(3)],
            }
            numbers = {name: number for number, name in enumerate(net._blob_names)}
            self.found[key] = written(self.proto, net), len(net.layers) - 1, numbers, said
        return self.found[key]


def message(kind, text, what):
    """A message of Caffe's from its text; on a malformed one, Caffe itself would abort."""
    from caffe.proto import caffe_pb2

    return merged(getattr(caffe_pb2, kind)(), text, what)


def merged(proto, text, what):
    """The message with what a text says of it."""
    from google.protobuf import text_format

    try:
        text_format.Merge(text, proto)
    except text_format.ParseError as error:
        raise NetError("not a valid %s prototxt: %s" % (what, error))
    return proto


def printed(proto):
    from google.protobuf import text_format

    return text_format.MessageToString(proto)


NOT_TRAINING = """
net net_param train_net train_net_param test_net test_net_param test_state test_iter test_interval
test_initialization display debug_info snapshot snapshot_prefix snapshot_after_train
""".split()  # noqa: SIM905  # names one below the other are no easier to read
"""What a SolverParameter says that is no part of the training of a given net."""


def solver_parameter(text):
    """A SolverParameter that only trains."""
    solver = message("SolverParameter", text, "solver")
    if solver.HasField("solver_type"):  # the field before Caffe 1.0
        solver.type = solver.SolverType.Name(solver.solver_type).capitalize().replace("Sgd", "SGD")
        solver.ClearField("solver_type")
    if solver.type not in ("SGD", "Nesterov"):
        raise NetError("the solver is of type %r; known are SGD and Nesterov" % solver.type)
    for field in ("base_lr", "lr_policy"):
        if not solver.HasField(field):
            raise NetError("the solver has no %s, without which Caffe trains nothing" % field)
    for field in NOT_TRAINING:
        solver.ClearField(field)
    return solver


def written(proto, net):
    """The blobs whose diffs a backward of the net writes, as Net::Init finds them (net.cpp).

    Forward through the layers: a blob needs a gradient where something learned is below it. Then
    back: of the layers those count that are under a loss, and whose tops get a gradient. A Crop is
    asked for the diff of the blob that gives its shape, and writes none (crop_layer.cpp): that of a
    blob inside a net stays 0, but who asks for an input's is to be told.
    """
    layers = {layer.name: layer for layer in proto.layer}
    names, blobs = list(net._layer_names), list(net._blob_names)
    ids = range(len(names))
    bottoms = [[blobs[each] for each in net._bottom_ids(i)] for i in ids]
    tops = [[blobs[each] for each in net._top_ids(i)] for i in ids]
    needed, wants, works, under_outputs = set(), [], [], set()
    for i in ids:
        layer = layers.get(names[i])  # None for a Split, which Caffe inserts
        asked = list(layer.propagate_down) if layer else []
        wants.append(asked or [blob in needed or proto.force_backward for blob in bottoms[i]])
        if is_keeper(layer):  # its bottoms are outputs, whose diffs are given
            under_outputs.update(bottoms[i])
        rates = [spec.lr_mult for spec in layer.param] if layer else []
        params = len(net.params.get(names[i], ()))
        learns = any(rates[:params]) or params > len(rates)
        works.append(learns or any(blob in needed for blob in bottoms[i]) or any(wants[i]))
        needed = needed.difference(tops[i]) | set(tops[i] if works[i] else ())
    inputs = {top for layer in proto.layer for top in layer.top if layer.bottom == [top + GIVEN]}
    with_loss = weights_of(proto)
    under_loss, skipped, found = set(), set(), []
    for i in reversed(ids):
        layer = layers.get(names[i])
        own = with_loss.keys() & set(layer.top if layer else bottoms[i])
        contributes = bool(own) or any(blob in under_loss for blob in tops[i])
        if works[i] and all(blob in skipped for blob in tops[i]):
            works[i], wants[i] = False, [False] * len(bottoms[i])
        shape_of = bottoms[i][1:] if layer and layer.type == "Crop" else []
        for blob, wanted in zip(bottoms[i], wants[i]):
            if contributes:
                under_loss.add(blob)
            if contributes and wanted:
                found += [blob] if works[i] and (blob in inputs or blob not in shape_of) else []
            else:
                skipped.add(blob)
    return [blob for blob in found if blob not in under_outputs]


def weights_of(proto):
    """The loss weights that are not 0, by top; of a *Loss layer, its first top has 1 by default."""
    found = {}
    for layer in proto.layer:
        usual = [1.0] if layer.type.endswith("Loss") else []
        for top, weight in zip(layer.top, layer.loss_weight or usual):
            if weight:
                found[top] = weight
    return found


def owned(proto, net):
    """The parameters that are set from outside, as layer, index and lr_mult; shared ones once."""
    names = set()
    for layer in proto.layer:
        if layer.name not in net.params or layer.name in keep_statistics(proto):
            continue
        for index in range(len(net.params[layer.name])):
            spec = layer.param[index] if index < len(layer.param) else None
            if spec and spec.name in names:
                continue
            if spec and spec.name:
                names.add(spec.name)
            rate = spec.lr_mult if spec else 1.0
            yield [layer.name, index, rate if layer.type != "BatchNorm" else 0.0]


def keep_statistics(proto):
    """The BatchNorm layers that make their statistics themselves, as they do in phase TRAIN."""
    norms = [layer for layer in proto.layer if layer.type == "BatchNorm"]
    return [layer.name for layer in norms if not layer.batch_norm_param.use_global_stats]


def read_weights(file):
    """The names of the layers that a .caffemodel has parameters for, and what it says."""
    from caffe.proto import caffe_pb2
    from google.protobuf.message import DecodeError

    proto = caffe_pb2.NetParameter()
    try:
        with open(file, "rb") as opened:
            content = opened.read()
        if content.startswith(b"\x89HDF"):
            raise NetError(
                "the weights %s: HDF5, which is not read here; net.save(FILE) in pycaffe writes a "
                ".caffemodel" % file
            )
        proto.ParseFromString(content)
    except (OSError, DecodeError, RuntimeWarning) as error:
        raise NetError("the weights %s: no .caffemodel, or a part of one (%s)" % (file, error))
    saved = {layer.name for layer in list(proto.layer) + list(proto.layers) if layer.blobs}
    if not saved:
        raise NetError("the weights %s: it has no layer with parameters" % file)
    return saved, proto


RAW_TYPE, RAW_DATA = 10, 12
"""Fields of a BlobProto that NVIDIA's Caffe and OpenCV write, and Caffe itself does not know."""

RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}


def widened(proto):
    """Whether numbers are in raw_data, as halves are; they are put where Caffe reads them."""
    found = False
    for layer in list(proto.layer) + list(proto.layers):
        for blob in layer.blobs:
            unknown = {each.field_number: each.data for each in blob.UnknownFields()}
            kind = unknown.get(RAW_TYPE, 1)
            if RAW_DATA in unknown and not blob.data:
                if kind not in RAW_TYPES:
                    raise NetError(
                        "the weights of layer %r are of raw type %s" % (layer.name, kind)
                    )
                blob.data.extend(np.frombuffer(unknown[RAW_DATA], RAW_TYPES[kind]).tolist())
                found = True
    return found


def learned(proto, net):
    """The parameters that a solver changes, as layer and index; of shared ones the first."""
    return [[layer, index] for layer, index, lr_mult in owned(proto, net) if lr_mult]


def add_fields(message, found):
    """Adds the fields of a message, and of those in it, by its name and theirs."""
    if message.name in found:
        return
    found[message.name] = fields = {}
    for field in message.fields:
        kind = field.message_type or field.enum_type
        default = None if field.message_type else field.default_value
        if field.enum_type and default != []:
            default = kind.values_by_number[default].name
        fields[field.name] = {
            "type": kind.name if field.message_type else CPP_TYPES[field.cpp_type],
            "values": [each.name for each in kind.values] if field.enum_type else [],
            "repeated": field.label == field.LABEL_REPEATED,
            "default": default,
        }
        if field.message_type:
            add_fields(field.message_type, found)


CPP_TYPES = """
- int32 int64 uint32 uint64 double float bool enum string message
""".split()  # noqa: SIM905  # as they stand in protobuf
"""The names of protobuf's FieldDescriptor.cpp_type, which begin at 1."""


def net_class(schema):
    """The class of nets in a caffe.proto that is given as a FileDescriptorProto."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    with open(schema, "rb") as file:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(file.read()))
    net = pool.FindMessageTypeByName("caffe.NetParameter")
    return message_factory.MessageFactory(pool).GetPrototype(net)


def plain(proto):
    """The text of a net, with what Caffe's LayerParameter does not have in a string of its own."""
    from caffe.proto import caffe_pb2

    known = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name
    for layer in proto.layer:
        names = [field.name for field, _ in layer.ListFields()]
        new = [name for name in names if name not in known]
        if new and layer.type == "Python":
            raise NetError("layer %r is a Python layer, which has no %s" % (layer.name, new[0]))
        block = type(layer)()
        block.CopyFrom(layer)
        for name in names:
            (layer if name in new else block).ClearField(name)
        if new:
            layer.python_param.param_str = printed(block)
    return printed(proto)


def as_data(layer):
    """The fields of a layer that are set, but for blobs."""
    from google.protobuf import json_format

    return json_format.MessageToDict(layer, preserving_proto_field_name=True)


def fields_of(layer):
    """What a layer's own message says, such as its pooling_param, defaults included."""
    own = MESSAGES.get(layer.type, layer.type).lower() + "param"
    found = {}
    for field in layer.DESCRIPTOR.fields:
        if field.name.replace("_", "") != own:
            continue
        message = getattr(layer, field.name)
        for each in message.DESCRIPTOR.fields:
            value = getattr(message, each.name)
            if each.message_type:
                continue
            if each.label == each.LABEL_REPEATED:
                value = list(value)
            elif each.enum_type:
                value = each.enum_type.values_by_number[value].name
            found[each.name] = value
    return found


MESSAGES = {
    "Deconvolution": "Convolution",
    "Im2col": "Convolution",
    "LSTM": "Recurrent",
    "RNN": "Recurrent",
    "SoftmaxWithLoss": "Softmax",
}
"""The types of layers whose message has another's name."""


def parsed(text, fed=(), unshaped=None, phase="TRAIN"):
    """The net that Caffe builds from prototxt text in a phase, before it inserts Splits.

    Asked for TRAIN, that is TEST where nothing but that phase has a layer that computes. What
    Caffe upgrades when it reads a file is upgraded, layers of other phases and stages are left
    out, and a loss without a top gets one. Data layers become Input layers, and so do others
    without a bottom that make what is fed; `unshaped` gets those of which only a file says the
    shape.
    """
    proto = message("NetParameter", text, "net")
    if proto.layers:
        if proto.layer:
            raise NetError(
                "`layers` and `layer` in one net, which Caffe itself refuses: choose one"
            )
        upgrade(proto)
    if not proto.layer:
        raise NetError("the net has no layer")
    modernise_inputs(proto)
    kept = [layer for layer in proto.layer if included(layer, proto.state, phase)]
    tested = [layer for layer in proto.layer if included(layer, proto.state, "TEST")]
    proto.state.ClearField("phase")
    only = any(layer.bottom for layer in tested) and not any(layer.bottom for layer in kept)
    if only or phase == "TEST":
        kept, proto.state.phase = tested, PHASES.index("TEST")
    if not kept:
        raise NetError("the net has no layer in phase %s" % phase)
    set_layers(proto, kept)
    feed(proto, fed, {} if unshaped is None else unshaped)
    give_names(proto)
    for layer in proto.layer:
        del layer.include[:], layer.exclude[:]
        if layer.type.endswith("Loss") and not layer.top:
            taken = {top for each in proto.layer for top in each.top}
            layer.top.append("(automatic)" if "(automatic)" not in taken else layer.name)
    if not outputs(proto):  # a Silence reads each: what a net is for must not be left out
        ends = ("Silence", "HDF5Output")
        set_layers(proto, [layer for layer in proto.layer if layer.type not in ends])
    return proto


def give_names(proto):
    """Gives each layer a name of its own, as Caffe does not ask for: its type, or NAME_2."""
    taken = {layer.name for layer in proto.layer} - {""}
    seen = set()
    for layer in proto.layer:
        name, number = layer.name or layer.type, 2
        wanted = name
        while wanted in seen or (wanted != layer.name and wanted in taken):
            wanted, number = "%s_%d" % (name, number), number + 1
        layer.name = wanted
        seen.add(wanted)


def transforms(proto, phase):
    """What data layers do with images, by their first top: those of the phase come last."""
    found = {}
    layers = [each for each in list(proto.layer) + list(proto.layers) if each.top]
    for layer in sorted(layers, key=lambda each: included(each, proto.state, phase)):
        said = layer.transform_param
        if layer.HasField("transform_param"):
            found[layer.top[0]] = {
                "mean_value": list(said.mean_value),
                "mean_file": said.mean_file,
                "scale": said.scale,
            }
    return found


PHASES = ("TRAIN", "TEST")
"""In the order of caffe.proto's enum."""


def phase_of(proto):
    """The phase of a net that was parsed, by its name."""
    return PHASES[proto.state.phase] if proto.state.HasField("phase") else "TRAIN"


def included(layer, state, phase):
    """Whether a layer is in the net in a phase, as Net::FilterNet decides it (net.cpp)."""
    if layer.include:
        return any(met(rule, state, phase) for rule in layer.include)
    return not any(met(rule, state, phase) for rule in layer.exclude)


def met(rule, state, phase):
    """Whether the net's state meets a rule: Net::StateMeetsRule."""
    stages = set(state.stage)
    return (
        (not rule.HasField("phase") or PHASES[rule.phase] == phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )


OTHER_NAMES = {
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
}
"""The types of V1 layers whose name is no mere change of case (UpgradeV1LayerType)."""


def upgrade(proto):
    """Turns `layers` into `layer`, as Caffe does when it reads a file (upgrade_proto.cpp)."""
    for old in proto.layers:
        name = old.LayerType.Name(old.type)
        usual = "".join(word.capitalize() for word in name.split("_"))
        new = proto.layer.add(type=OTHER_NAMES.get(name, usual))
        for field, value in old.ListFields():
            if field.name in ("type", "blobs_lr", "weight_decay", "param", "blob_share_mode"):
                continue
            if field.name not in new.DESCRIPTOR.fields_by_name:
                raise NetError("layer %r: the old field %r is no more" % (old.name, field.name))
            target = getattr(new, field.name)
            if field.label == field.LABEL_REPEATED:
                target.MergeFrom(value)
            elif field.message_type:
                target.CopyFrom(value)
            else:
                setattr(new, field.name, value)
        specs = (
            ("name", old.param),
            ("lr_mult", old.blobs_lr),
            ("decay_mult", old.weight_decay),
            ("share_mode", old.blob_share_mode),
        )
        for index in range(max(len(values) for _, values in specs[:3])):
            spec = new.param.add()
            for field, values in specs:
                if index < len(values):
                    setattr(spec, field, values[index])
    del proto.layers[:]


NET = "_ZN5caffe12NetParameter"
MESSAGE = "_ZN6google8protobuf11MessageLite"
"""How the symbols of C++ begin that are called by name: pycaffe shows none of them."""


def upgraded_v0(caffe, proto):
    """A net in the syntax of 2013 in that of 2014, as Caffe's own UpgradeV0Net makes it.

    Of a type that Caffe never had, that aborts.
    """
    library = ctypes.CDLL(caffe._caffe.__file__)

    def call(name, *arguments, **kind):
        function = getattr(library, name)
        function.restype = kind.get("gives", ctypes.c_bool)
        return function(*arguments)

    def pointer(memory):
        return ctypes.c_void_p(ctypes.addressof(memory))

    try:
        nets = [ctypes.create_string_buffer(1 << 12) for _ in range(2)]  # it takes some 200 bytes
        for each in nets:
            if hasattr(library, NET + "C1EPN6google8protobuf5ArenaE"):
                call(NET + "C1EPN6google8protobuf5ArenaE", pointer(each), None)
            else:
                call(NET + "C1Ev", pointer(each))
        old, new = map(pointer, nets)
        data = proto.SerializeToString()
        call(MESSAGE + "14ParseFromArrayEPKvi", old, ctypes.c_char_p(data), len(data))
        call("_ZN5caffe12UpgradeV0NetERKNS_12NetParameterEPS0_", old, new)
        size = call(NET.replace("_ZN", "_ZNK") + "12ByteSizeLongEv", new, gives=ctypes.c_size_t)
        made = ctypes.create_string_buffer(size)
        name = MESSAGE.replace("_ZN", "_ZNK") + "16SerializeToArrayEPvi"
        call(name, new, pointer(made), ctypes.c_int(size))
    except AttributeError as error:
        raise NetError(
            "`layers { layer { ... } }` is the syntax of 2013, which this Caffe does not upgrade "
            "(%s): `upgrade_net_proto_text OLD NEW`, a tool of Caffe's, makes that of today" % error
        )
    return type(proto).FromString(made.raw)


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
        set_layers(proto, proto.layer[-added:] + proto.layer[:-added])
        for field in ("input", "input_shape", "input_dim"):
            proto.ClearField(field)


def set_layers(proto, layers):
    """Gives the net these layers, those that it has in another order among them."""
    del proto.layer[:]
    proto.layer.extend(layers)


DATA = ["Data", "HDF5Data", "ImageData", "MemoryData", "WindowData"]
"""The types of layers whose tops come from files, or from a program."""


def feed(proto, fed, unshaped):
    """Puts an Input layer for each top of a data layer, and for each that is fed, in its place."""
    layers = list(proto.layer)
    del proto.layer[:]
    for layer in layers:
        inputs = set()
        if not layer.bottom and layer.type != "Input":
            inputs = {
                index
                for index, top in enumerate(layer.top)
                if top in fed or layer.type in DATA or is_random(layer, index)
            }
        if not inputs:
            proto.layer.add().CopyFrom(layer)
            continue
        for index, top in enumerate(layer.top):
            name = "%s (%s)" % (layer.name, top) if index else layer.name
            if layer.type == "DummyData" and index not in inputs:
                only_top(proto.layer.add(), layer, index).name = name
                continue
            new = proto.layer.add(name=name, type="Input", top=[top])
            shape = shape_of(layer, index)
            if shape is None:
                unshaped[top] = [layer.name, layer.type, batch_of(layer)]
            else:
                new.input_param.shape.add().dim.extend(shape)


def together(proto):
    """By a data layer's name, its tops: they have as many samples as each other (see `feed`)."""
    found = {}
    for layer in proto.layer:
        end = " (%s)" % "".join(layer.top[:1])
        if layer.type == "Input":
            name = layer.name[: -len(end)] if layer.name.endswith(end) else layer.name
            found.setdefault(name, []).extend(layer.top)
    return {name: tops for name, tops in found.items() if len(tops) > 1}


def is_random(layer, index):
    """Whether a DummyData layer draws this top anew in each forward."""
    if layer.type != "DummyData":
        return False
    fillers = layer.dummy_data_param.data_filler
    filler = fillers[min(index, len(fillers) - 1)].type if fillers else "constant"
    return filler not in ("constant", "bilinear")


def only_top(new, layer, index):
    """Makes a DummyData layer one that has this top alone."""
    new.CopyFrom(layer)
    new.top[:] = [layer.top[index]]
    for field, values in layer.dummy_data_param.ListFields():
        if field.label == field.LABEL_REPEATED and len(values) > 1:
            kept = [values[index]]
            new.dummy_data_param.ClearField(field.name)
            getattr(new.dummy_data_param, field.name).extend(kept)
    return new


def batch_of(layer):
    """How many samples a data layer makes at once, if it says so."""
    fields = ("data_param", "hdf5_data_param", "image_data_param", "memory_data_param")
    for field in (*fields, "window_data_param"):
        if layer.HasField(field) and getattr(layer, field).batch_size:
            return getattr(layer, field).batch_size
    return None


def shape_of(layer, index):
    """The shape of a top of a layer without a bottom, or None where the net does not say it."""
    batch = batch_of(layer)
    if layer.type == "DummyData":
        said = layer.dummy_data_param
        if said.shape:
            return list(said.shape[min(index, len(said.shape) - 1)].dim)
        four = (said.num, said.channels, said.height, said.width)
        return [each[min(index, len(each) - 1)] for each in four] if all(four) else None
    if batch is None or layer.type == "HDF5Data":
        return None
    if index:
        return [batch] if layer.type in DATA else None
    if layer.type == "MemoryData":
        said = layer.memory_data_param
        return [batch, said.channels, said.height, said.width]
    crop = layer.transform_param.crop_size
    channels = 1 if layer.transform_param.force_gray else 0
    channels = 3 if layer.transform_param.force_color else channels
    if layer.type == "ImageData":
        said = layer.image_data_param
        channels = 3 if said.is_color else 1
        sides = [crop, crop] if crop else [said.new_height, said.new_width]
    elif layer.type == "WindowData":
        crop = crop or layer.window_data_param.crop_size
        channels, sides = 3, [crop, crop]
    else:
        sides = [crop, crop]
    return [batch, channels, *sides] if channels and all(sides) else None


def loss_layers(proto):
    """The layers with a top that has a loss weight."""
    weights = weights_of(proto)
    return [layer for layer in proto.layer if any(top in weights for top in layer.top)]


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
    if "below" in edits:
        put_below(proto, parsed(edits["below"]))
    for name, shape in edits.get("shapes", {}).items():
        set_shape(input_layer(proto, name), name, shape)
    for name, target in edits.get("same", {}).items():
        merge_input(proto, name, target)
    if edits.get("outputs_as_losses"):
        give_outputs_weight(proto, edits.get("drive_below"))
    losses = loss_layers(proto)
    if not losses:
        raise NetError(
            "the net has no loss: no layer's type ends in Loss and none has a loss_weight "
            "(Python layers and Reduction need one written out)"
        )
    tops = list(weights_of(proto))
    if "loss_weight" in edits:
        if len(losses) > 1:
            raise NetError(
                "the net has %d losses (%s), so which one gets the loss weight is unknown"
                % (len(losses), ", ".join(layer.name for layer in losses))
            )
        losses[0].loss_weight[:] = [
            edits["loss_weight"] if top in tops else 0.0 for top in losses[0].top
        ]
    if "append" in edits:
        added = parsed(edits["append"])
        proto.layer.extend(added.layer)
        tops += weights_of(added)
    inputs = [top for layer in proto.layer if layer.type == "Input" for top in layer.top]
    sources = {name: name for name in inputs}
    for name in edits.get("gradients", ()):
        sources[name] = put_bias_behind(proto, name)
    if edits.get("force_backward"):
        proto.force_backward = True
    return sources, tops


def outputs(proto):
    """The tops that no layer reads, in the net's order; an in-place layer's top once."""
    read = {bottom for layer in proto.layer for bottom in layer.bottom if bottom not in layer.top}
    tops = [top for layer in proto.layer for top in layer.top if layer.type != "Input"]
    return [top for top in dict.fromkeys(tops) if top not in read]


NO_BACKWARD = ("Accuracy", "ArgMax", "Threshold")
"""Types of Caffe's own that have no backward: what they are used for needs none."""


def undriven(proto):
    """The outputs that get no upstream gradient, since their layers have no backward.

    Where there are no others, whoever wants a gradient of them is to be told.
    """
    found, without = set(outputs(proto)), no_backward(proto)
    return without if found - without else set()


def no_backward(proto):
    """The outputs of layers that have no backward."""
    made = {top for each in proto.layer if each.type in NO_BACKWARD for top in each.top}
    return made & set(outputs(proto))


def give_outputs_weight(proto, below):
    """Makes the outputs of a net without a loss its losses: Caffe prunes the backward otherwise.

    Where all are of layers that have no backward, `below` makes losses of what these read.
    """
    if weights_of(proto):
        return
    wanted = set(outputs(proto)) - undriven(proto)
    kept = []
    if below and wanted <= no_backward(proto):
        readers = [each for each in proto.layer if wanted & set(each.top)]
        kept, wanted = sorted({each.bottom[0] for each in readers}), set()
    for layer in reversed(proto.layer):  # of in-place layers the last one makes the output
        if wanted & set(layer.top):
            if layer.type == "Python":  # it may shape its top when it runs, and Caffe would abort
                kept += [top for top in layer.top if top in wanted]
            else:
                layer.loss_weight[:] = [1.0 if top in wanted else 0.0 for top in layer.top]
            wanted -= set(layer.top)
    if kept:
        keeper = proto.layer.add(name=KEEPER, type="Python", bottom=kept, top=[KEEPER])
        keeper.python_param.module, keeper.python_param.layer = "__main__", KEEPER
        keeper.loss_weight[:] = [1.0]


KEEPER = "KeepsDiffs"


def define_keeper(caffe):
    """Defines the layer that stands behind the outputs of Python layers, for Caffe to import."""

    class KeepsDiffs(caffe.Layer):
        """A loss of 0 over its bottoms, whose diffs it leaves as they are given."""

        def setup(self, bottom, top):
            pass

        def reshape(self, bottom, top):
            top[0].reshape(1)

        def forward(self, bottom, top):
            top[0].data[...] = 0

        def backward(self, top, propagate_down, bottom):
            pass

    globals()[KEEPER] = KeepsDiffs


def is_keeper(layer):
    """Whether a layer is the one that `define_keeper` defines."""
    return layer is not None and layer.type == "Python" and layer.python_param.layer == KEEPER


def declared_shape(layer, index):
    shapes = layer.input_param.shape
    return list(shapes[min(index, len(shapes) - 1)].dim) if shapes else []


def set_shape(layer, name, shape):
    shapes = layer.input_param.shape
    while len(shapes) < len(layer.top):  # one shape may stand for all tops, or none is there yet
        new = shapes.add()
        if len(shapes) > 1:
            new.CopyFrom(shapes[0])
    shapes[list(layer.top).index(name)].dim[:] = shape


def remove_input(proto, name):
    layer = input_layer(proto, name)
    if len(layer.top) > 1:
        raise NetError("input %r shares its Input layer with others" % name)
    proto.layer.remove(layer)


def merge_input(proto, name, target):
    for each in (name, target):
        input_layer(proto, each)
    remove_input(proto, name)
    for reader in proto.layer:
        reader.bottom[:] = [target if bottom == name else bottom for bottom in reader.bottom]


def put_below(proto, added):
    """Puts layers first; each input of the net that they make is no Input any more."""
    inputs = {top for layer in proto.layer if layer.type == "Input" for top in layer.top}
    made = {top for layer in added.layer for top in layer.top}
    for name in sorted(inputs & made):
        remove_input(proto, name)
    set_layers(proto, list(added.layer) + list(proto.layer))


GIVEN = "_input"


def put_bias_behind(proto, name):
    """The input becomes NAME_input (GIVEN); a Bias filled with 0 makes NAME from it.

    A Bias has a parameter that learns, so Caffe itself wants the gradient of its top: of this blob
    and of no other one.
    """
    source = name + GIVEN
    layer = input_layer(proto, name)
    layer.top[:] = [source if top == name else top for top in layer.top]
    index = list(proto.layer).index(layer) + 1
    made = [top[: -len(GIVEN)] + "_bias" for top in layer.top if top.endswith(GIVEN)]
    while index < len(proto.layer) and proto.layer[index].name in made:  # in the inputs' order
        index += 1
    bias = proto.layer.add(name=name + "_bias", type="Bias", bottom=[source], top=[name])
    bias.bias_param.axis = 0
    bias.bias_param.num_axes = 0
    bias.bias_param.filler.type = "constant"
    bias.bias_param.filler.value = 0
    set_layers(proto, proto.layer[:index] + proto.layer[-1:] + proto.layer[index:-1])
    return source


def described(error, index):
    """An exception as data."""
    kinds = {
        NetError: "net",
        RequestError: "request",
        Stale: "stale",
        NoCuda: "no cuda",
        NoDevice: "no device",
    }
    message = str(error) if type(error) in kinds else "%s: %s" % (type(error).__name__, error)
    return {
        "kind": kinds.get(type(error), "layer"),
        "message": message,
        "traceback": "".join(traceback.format_exception(type(error), error, error.__traceback__)),
        "op": index,
    }


def receive(descriptor):
    """The next message, without its length, or None at the end of the pipe.

    There is but one in the pipe: the next comes when this one is answered.
    """
    data, end = b"", 4
    while len(data) < end:
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            return None
        data += piece
        if end == 4 <= len(data):
            end += struct.unpack(">I", data[:4])[0]
    return data[4:]


def packed(reply):
    """A reply as a message."""
    body = json.dumps(reply, separators=(",", ":")).encode()
    return struct.pack(">I", len(body)) + body


def send(descriptor, data):
    while data:
        data = data[os.write(descriptor, data) :]


def soon(watch):
    """Whether something can be read within SPIN seconds; others that want the core get it."""
    end = time.monotonic() + SPIN
    while not watch.poll(0):
        if time.monotonic() > end:
            return False
        os.sched_yield()
    return True


LIMITS = sorted({getattr(resource, each) for each in dir(resource) if each.startswith("RLIMIT_")})


class Beginning:
    """How this process began, which is how each request must find it: see `kept`."""

    def __init__(self, growth):
        self.growth = growth  # bytes of memory of its own that it may gain
        self.statm = os.open("/proc/self/statm", os.O_RDONLY)
        self.places, self.memory = self.now()

    def now(self):
        """Its folder, its standard input and outputs, its limits; the bytes that are its own."""
        _, resident, shared, _ = os.pread(self.statm, 1 << 10, 0).split(None, 3)
        files = [(each.st_dev, each.st_ino) for each in map(os.fstat, range(3))]
        limits = [resource.getrlimit(each) for each in LIMITS]
        return (os.getcwd(), files, limits), (int(resident) - int(shared)) * mmap.PAGESIZE

    def kept(self):
        """Whether no request has left behind what the next must not inherit."""
        try:
            places, memory = self.now()
        except (OSError, MemoryError):  # a folder that is gone, an output that is closed
            return False
        return places == self.places and memory < self.memory + self.growth


def die_with_parent():
    """Asks Linux to kill this process when the client dies, however it dies."""
    pr_set_pdeathsig = 1  # <sys/prctl.h>
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def bind_children():
    """Makes children that a layer forks die with this process, whatever session they moved to.

    Linux sends the signal when the thread that forked ends, so only the main one's are bound.
    """
    main_thread = threading.get_ident()

    def bind():
        if threading.get_ident() == main_thread:
            die_with_parent()

    if hasattr(os, "register_at_fork"):  # Python 3.7
        os.register_at_fork(after_in_child=bind)


def mapped_libraries():
    with open("/proc/self/maps") as maps:
        return sorted({line.split(None, 5)[5].strip() for line in maps if ".so" in line})


def has_cuda():
    """Whether the Caffe that is loaded was built with CUDA: it brings CUDA's libraries then.

    Nothing else tells: set_mode_gpu() succeeds on every Caffe.
    """
    names = [os.path.basename(library) for library in mapped_libraries()]
    return any(name.startswith(("libcudart.so", "libcublas.so")) for name in names)


def cpu_seconds(run):
    """The processor's time, of which nothing else takes any; of many runs if one is short."""

    def spent(count):
        start = time.process_time()
        for _ in range(count):
            run()
        return (time.process_time() - start) / count

    once = spent(1)
    return spent(int(1e-4 / max(once, 1e-7))) if once < 5e-5 else once


def gpu_seconds(run):
    """Between two events on Caffe's stream, the default one."""
    cuda = driver()
    start, stop, milliseconds = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float()
    status = cuda.cuEventCreate(ctypes.byref(start), 0)
    status = status or cuda.cuEventCreate(ctypes.byref(stop), 0)
    status = status or cuda.cuEventRecord(start, None)
    run()
    status = status or cuda.cuEventRecord(stop, None)
    status = status or cuda.cuEventSynchronize(stop)
    status = status or cuda.cuEventElapsedTime(ctypes.byref(milliseconds), start, stop)
    for event in (start, stop):
        cuda.cuEventDestroy_v2(event)
    if status:
        raise RequestError("the GPU's clock could not be read (the driver's error %d)" % status)
    return milliseconds.value / 1000


LAUNCH_COUNTER = None


def load_launch_counter():
    """Loads what counts kernel launches; before Caffe, so that Caffe's launches arrive there."""
    global LAUNCH_COUNTER
    path = os.environ.get("PARITY_LAUNCH_COUNTER")
    if path:
        LAUNCH_COUNTER = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        LAUNCH_COUNTER.parity_take_launches.restype = ctypes.c_ulonglong


def connect_launch_counter():
    """Tells the counter where the launches go on to: into the CUDA runtime that Caffe brought."""
    if LAUNCH_COUNTER is None:
        return
    real = []
    for library in mapped_libraries():
        if os.path.basename(library).startswith("libcudart.so"):
            runtime = ctypes.CDLL(library)
            for name in ("cudaLaunchKernel", "__cudaLaunchKernel"):
                function = getattr(runtime, name, None)
                real.append(ctypes.cast(function, ctypes.c_void_p) if function else None)
            LAUNCH_COUNTER.parity_forward_launches_to(*real)
            return


def driver():
    """The CUDA driver's library."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise NoDevice("no CUDA device: there is no driver (%s)" % error)


def use_gpu(caffe):
    """Puts Caffe into GPU mode on device 0; returns the device's name.

    The driver is asked first, because Caffe's set_device aborts where there is no device.
    """
    if not has_cuda():
        raise NoCuda("this Caffe has no CUDA: neither libcudart nor libcublas is loaded with it")
    cuda = driver()
    stub, no_device = 34, 100  # CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NO_DEVICE, <cuda.h>
    count = ctypes.c_int()
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if status in (stub, no_device) or (not status and not count.value):
        raise NoDevice("no CUDA device: the driver knows of none")
    if status:  # a device is there or was; that it does not work must not pass for its absence
        raise RuntimeError("the CUDA driver does not start: its error %d" % status)
    name = ctypes.create_string_buffer(256)
    device = ctypes.c_int()
    if not cuda.cuDeviceGet(ctypes.byref(device), 0):
        cuda.cuDeviceGetName(name, len(name), device)
    caffe.set_device(0)
    caffe.set_mode_gpu()
    return name.value.decode()


def main():
    # What a layer imports must not be found beside this file, which Python searches first.
    sys.path[:] = [each for each in sys.path if each != os.path.dirname(os.path.abspath(__file__))]
    sys.dont_write_bytecode = True  # beside a user's layer
    requests, replies, arrays, growth = (int(argument) for argument in sys.argv[1:5])
    for descriptor in (requests, replies, arrays):
        os.set_inheritable(descriptor, False)  # programs that a layer starts have no part in this
    if "--die-with-parent" in sys.argv:
        die_with_parent()
    bind_children()
    try:
        load_launch_counter()
        import caffe

        connect_launch_counter()
        define_keeper(caffe)
        if "--gpu" in sys.argv:
            mode = {"mode": "gpu", "device": use_gpu(caffe)}
        else:
            caffe.set_mode_cpu()
            mode = {"mode": "cpu"}
    except BaseException as error:
        send(replies, packed({"error": described(error, None)}))
        return
    greeting = {
        "caffe": getattr(caffe, "__version__", "unknown"),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "layers": list(caffe.layer_type_list()),
        "pid": os.getpid(),
        "cuda": has_cuda(),
    }
    greeting.update(mode)
    beginning = Beginning(growth)
    send(replies, packed(greeting))
    worker = Worker(caffe, Arrays(arrays))
    watch = select.poll()
    watch.register(requests, select.POLLIN)
    while beginning.kept():
        if not soon(watch):
            watch.poll()
            if not beginning.kept():  # a thread of a layer's may have run on
                break
        request = receive(requests)
        if request is None:
            return
        send(replies, worker.answer(request))
        worker.modules.look()
    os._exit(0)  # the client sees that the next request was not read, and starts another process


if __name__ == "__main__":
    main()
