"""Build a plug-in: a library that registers a user's layers in a Caffe that is running.

The sources are taken as they stand in a Caffe tree, a fork's or one from before Caffe 1.0, as far
as a plug-in can go: its headers are found under the names that they have there, what only a Caffe
with CUDA has is not missed, and a type that Caffe has already is replaced while the plug-in is in
use. Where that does not do, the message says what is in the way.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_parity.caffe import compile as compiling
from caffe_parity.caffe import install as installer
from caffe_parity.caffe.compile import CompileError, cached
from caffe_parity.caffe.proto import Extension

FLAGS = ("-O3", "-DCPU_ONLY")
CUDA_FLAGS = ("-O3",)
SHARED = (
    "-shared",
    "-Wl,-z,defs",  # what would fail to load already fails to link
    "-Wl,-Bsymbolic",  # an edited class of Caffe's own must not be taken for Caffe's
)
REGISTRATION = Path(__file__).with_name("registration.cpp")
SOURCES = (".cpp", ".cc", ".cxx")

_OWN = """
  // What this plug-in registers; `before` is what it took the place of.
  struct Registration { string type; Creator creator; Creator before; };
  __attribute__((visibility("hidden"))) static std::vector<Registration>& Own() {
    static std::vector<Registration>* own = new std::vector<Registration>();
    return *own;
  }
"""
_CREATORS = "  typedef std::map<string, Creator> CreatorRegistry;\n"
_REFUSED = r"CHECK_EQ\(registry\.count\(type\), 0\)[^;]*;"
_REPLACED = "Own().push_back({type, creator, registry.count(type) ? registry[type] : nullptr});"

_BEFORE_1_0 = {
    "common": "argmax batch_norm batch_reindex concat eltwise embed filter flatten inner_product "
    "mvn reduction reshape silence slice softmax split tile",
    "data": "base_data data dummy_data hdf5_data hdf5_output image_data memory_data window_data",
    "loss": "accuracy contrastive_loss euclidean_loss hinge_loss infogain_loss loss "
    "multinomial_logistic_loss neuron sigmoid sigmoid_cross_entropy_loss softmax softmax_loss",
    "neuron": "absval bnll dropout exp log neuron power prelu relu sigmoid tanh threshold",
    "vision": "base_conv conv deconv im2col lrn pooling spp",
}
"""What the headers caffe/KIND_layers.hpp, before Caffe 1.0, had in them."""


@dataclass(frozen=True)
class Missing:
    """A function of a layer that has no code.

    Attributes:
        where: `FILE:LINE` of it.
        owner: the layer's class.
        forward: whether it is the forward, or the backward.
    """

    where: str
    owner: str
    forward: bool

    @property
    def function(self) -> str:
        """Such as `HuberLossLayer::Forward_cpu`."""
        return f"{self.owner}::{'Forward' if self.forward else 'Backward'}_cpu"


def build(
    root: Path,
    sources: Sequence[Path],
    folders: Sequence[Path] = (),
    starting: Callable[[], None] = lambda: None,
    extension: Extension | None = None,
) -> Path:
    """Return the plug-in made of C++ files, compiling it unless an equal one has been.

    Equal is what the preprocessor makes equal, so a header that has changed counts. A header beside
    a file is found by its name, and as caffe/layers/NAME, which it would be in a Caffe tree. Of a
    file that lies in such a tree, the tree's headers are found, its own first and the others behind
    Caffe's. The plug-in of NAME_layer.cpp, if it is the first file, is called NAME.so.

    Args:
        root: the folder of an installed Caffe.
        sources: the files; each with a .cu file beside it where that Caffe has CUDA.
        folders: further ones with headers.
        starting: called before it is compiled, which takes some seconds.
        extension: the messages that the layers have in a caffe.proto of their own.

    Raises:
        CompileError: there is no compiler, or it refuses a file; what it printed is in the user's
            own words for files.
    """
    parents = tuple(dict.fromkeys(each.parent for each in sources))
    trees = tuple(each / "../../../include" for each in parents if in_tree(each))
    with tempfile.TemporaryDirectory() as include:
        headers = link_headers(Path(include), (*folders, *parents))
        for own in (tree / f"caffe/layers/{each.stem}.hpp" for tree in trees for each in sources):
            if own.exists() and not (headers / own.name).exists():
                (headers / own.name).symlink_to(own.resolve())
        kit = _kit(root)
        messages = [extension.include] if extension else []
        first = (*messages, kit / "first", compiling.toolchain(root) / "include")
        places = (*first, Path(include), *folders, *parents, kit / "old")
        work = _Work(root, tuple(sources), places, headers, trees, extension)
        try:
            linked = extension and str(extension.library)
            key = (str(root), work.library, work.texts(), REGISTRATION.read_text(), linked)

            def make(output: Path) -> None:
                starting()
                work.make(output, kit)

            return cached("layer", key, make) / work.library
        except CompileError as error:
            raise work.told(error) from None


def link_headers(include: Path, folders: Sequence[Path]) -> Path:
    """Link the headers in `folders` into caffe/layers in `include`; return that folder.

    That is where layers look for them in a Caffe tree. Of two with one name, the last one counts.
    """
    layers = include / "caffe/layers"
    layers.mkdir(parents=True)
    for folder in folders:
        for header in (*folder.glob("*.hpp"), *folder.glob("*.h")):
            (layers / header.name).unlink(missing_ok=True)
            (layers / header.name).symlink_to(header.absolute())
    return layers


@dataclass(frozen=True)
class _Work:
    """What is compiled, and with which headers.

    Attributes:
        root: the folder of an installed Caffe.
        sources: the C++ files.
        places: folders with headers.
        headers: of these, the one with links to the user's own headers.
        trees: folders with headers that go behind Caffe's.
        extension: messages of the layers' own.
    """

    root: Path
    sources: tuple[Path, ...]
    places: tuple[Path, ...]
    headers: Path
    trees: tuple[Path, ...]
    extension: Extension | None

    @property
    def library(self) -> str:
        return f"{self.sources[0].stem.removesuffix('_layer')}.so"

    @property
    def cuda(self) -> bool:
        return compiling.has_cuda(self.root)

    @property
    def flags(self) -> tuple[str, ...]:
        # Wherever a file lies, __FILE__ in it is the same, and so is the plug-in.
        folders = dict.fromkeys([self.headers, *(each.parent for each in self.sources)])
        names = [f"-fmacro-prefix-map={each}/=" for each in folders]
        behind = [f"-idirafter{each}" for each in self.trees]
        return (*(CUDA_FLAGS if self.cuda else FLAGS), *names, *behind)

    def kernels(self) -> list[Path]:
        """The .cu files that are compiled."""
        files = [each.with_suffix(".cu") for each in self.sources]
        return [each for each in files if each.exists()] if self.cuda else []

    def texts(self) -> object:
        """All that decides what is made, as the preprocessor sees it.

        Raises:
            CompileError: it refuses a file, or one has another class than libcaffe in mind.
        """
        command = [*compiling.compiler(self.root, self.places), "-E", *self.flags]
        made = [compiling.run([*command, str(each)], self.root) for each in self.sources]
        self._check_base_classes({path for text in made for path in _INCLUDED.findall(text)})
        lines = (text.splitlines() for text in made)
        texts = [[each for each in text if each.strip() and each[:2] != "# "] for text in lines]
        # Of the kernels' text, what g++ would leave out may count.
        kernels = self.kernels()
        files = [*kernels, *sorted(self.headers.iterdir())] if kernels else []
        optimized = CUDA_FLAGS if self.cuda else FLAGS
        return texts, [file.read_bytes() for file in files], optimized, SHARED

    def _check_base_classes(self, included: set[str]) -> None:
        """Check that no class is laid out in another way than in libcaffe, which has its code.

        Raises:
            CompileError: one is.
        """
        own = self.root / "usr/include"
        for path in sorted(included):
            file, known = Path(path), own / f"caffe/layers/{Path(path).name}"
            if file.parts[-3:-1] != ("caffe", "layers") or file.is_relative_to(own):
                continue
            if file.stem in {each.stem for each in self.sources} or not known.exists():
                continue
            if code(file) != code(known):
                raise CompileError(
                    f"{file.resolve()} is another than that of Caffe 1.0, and the code of its "
                    "class is Caffe's.\n"
                    f"  to do: add its source as well, --load {file.stem}.cpp, or take the header "
                    "away, so that Caffe's own is used."
                )

    def make(self, output: Path, kit: Path) -> None:
        """Compile the sources and link them into the library in the folder `output`."""
        root = self.root
        objects = [
            compiling.compile_cuda(root, output, each, self.places) for each in self.kernels()
        ]
        for number, each in enumerate(self.sources):
            objects.append(output / f"{number}.o")
            compile_object(root, each, objects[-1], self.places, self.flags)
        try:
            self._link(output, [*objects, kit / "registration.o"])
        except CompileError as error:
            missing = undefined(error.printed)
            on_gpu = [name for name in missing if "_gpu" in name]
            if self.cuda or not on_gpu or on_gpu != missing:
                raise
            source = output / "stubs.cpp"
            source.write_text(stubs(dict(zip(on_gpu, readable(root, on_gpu), strict=True))))
            objects.append(output / "stubs.o")
            compile_object(root, source, objects[-1], (), ())
            self._link(output, [*objects, kit / "registration.o"])
            source.unlink()
        for each in objects:
            each.unlink()

    def _link(self, output: Path, objects: Sequence[Path]) -> None:
        flags = (*SHARED, "-Wl,--no-demangle")
        if self.extension:
            objects = [*objects, self.extension.library]
        compiling.compile_with(self.root, output / self.library, objects, (), flags)

    def told(self, error: CompileError) -> CompileError:
        """The error with the user's own files, and with what to do about it."""
        message, printed = str(error), error.printed
        missing = undefined(printed)
        if missing:
            names = readable(self.root, missing)
            printed = "\n".join(f"error: no file defines {name}" for name in names)
            message = (
                f"{message.splitlines()[0]}\n  first error: undefined reference to `{names[0]}'"
            )
            advice = self._elsewhere(names)
        else:
            # The compiler names links to the headers, and shall name the user's own.
            for header in self.headers.iterdir():
                message = message.replace(str(header), str(header.resolve()))
                printed = printed.replace(str(header), str(header.resolve()))
            advice = advice_on(printed)
        if advice:
            head = message.partition("\n  to do:")[0]
            message = f"{head}\n  to do:       {advice}"
        return CompileError(message, printed, advice)

    def _elsewhere(self, names: Sequence[str]) -> str:
        """Which file beside the sources may define what they miss."""
        words = {found[1] for name in names if (found := re.search(r"(\w+)(<[^(]*>)?\(", name))}
        for folder in dict.fromkeys(each.parent for each in self.sources):
            for file in sorted(folder.iterdir()):
                if file.suffix not in SOURCES or file in self.sources:
                    continue
                text = file.read_text(errors="replace")
                if any(re.search(rf"\b{word}\s*\(", text) for word in words):
                    return (
                        f"{file.name}, which lies beside it, seems to: add --load {file}; all "
                        "files of --load make one plug-in"
                    )
        return "add the source file that does with another --load; all of them make one plug-in"


_INCLUDED = re.compile(r'^# \d+ "([^"]+\.(?:hpp|h))"', re.MULTILINE)


def in_tree(folder: Path) -> bool:
    """Whether a folder is that of the layers in the source tree of a Caffe."""
    return folder.absolute().parts[-3:] == ("src", "caffe", "layers")


def code(header: Path) -> list[str]:
    """The words of a header, without its comments."""
    text = _COMMENT.sub(
        lambda each: each[0] if each[0][0] == '"' else " ", header.read_text(errors="replace")
    )
    return text.split()


def compile_object(
    root: Path, source: Path, output: Path, places: Sequence[Path], flags: Sequence[str]
) -> None:
    """Compile a C++ file into an object for a plug-in.

    Raises:
        CompileError: there is no compiler, or it refuses the file.
    """
    command = [*compiling.compiler(root, places), *flags, "-fPIC", "-c", str(source)]
    compiling.run([*command, "-o", str(output)], root)


def _kit(root: Path) -> Path:
    """The folder with what every plug-in for the Caffe in `root` is made with.

    `first` has headers that go before the user's: how a layer is registered, and Caffe's core,
    whose classes are in libcaffe as they are, whatever a fork has made of them. `old` has those
    from before Caffe 1.0.
    """

    def make(folder: Path) -> None:
        core = root / "usr/include/caffe"
        first, old = folder / "first/caffe", folder / "old/caffe"
        first.mkdir(parents=True)
        old.mkdir(parents=True)
        for header in core.glob("*.hpp"):
            (first / header.name).symlink_to(header)
        factory = first / "layer_factory.hpp"
        text = factory.read_text()
        factory.unlink()
        text, changed = re.subn(_REFUSED, _REPLACED, text)
        if changed != 1 or text.count(_CREATORS) != 1:
            raise CompileError(
                f"{core / factory.name} is not the known one: AddCreator is another.\n"
                f"  to do: remove {root} and run again; it is installed anew."
            )
        factory.write_text(text.replace(_CREATORS, _CREATORS + _OWN))
        for kind, names in _BEFORE_1_0.items():
            lines = [f'#include "caffe/layers/{each}_layer.hpp"' for each in names.split()]
            if kind == "vision":  # it included the others
                lines += [f'#include "caffe/{each}_layers.hpp"' for each in _BEFORE_1_0][:-1]
            (old / f"{kind}_layers.hpp").write_text("#pragma once\n" + "\n".join(lines) + "\n")
        places = (folder / "first", compiling.toolchain(root) / "include")
        # It looks into no layer, so CPU_ONLY is no matter for it.
        compile_object(root, REGISTRATION, folder / "registration.o", places, FLAGS)

    complete = root / installer.COMPLETE
    packages = complete.read_bytes() if complete.exists() else b""
    parts = (_OWN, _REFUSED, _REPLACED, _BEFORE_1_0, REGISTRATION.read_text())
    return cached("kit", (str(root), packages, parts), make)


def undefined(printed: str) -> list[str]:
    """The symbols that a linker misses, each once, as it spells them."""
    return list(dict.fromkeys(re.findall(r"undefined reference to `([^']+)'", printed)))


def readable(root: Path, symbols: Sequence[str]) -> list[str]:
    """C++ symbols as they are written in a source."""
    _, variables = installer.compiler_command(root)
    environment = {name: each for name, each in variables.items() if each is not None}
    said = compiling.run([f"{root}/usr/bin/c++filt", *symbols], root, environment)
    return said.splitlines()


def stubs(names: dict[str, str]) -> str:
    """The source of functions that end the process, as STUB_GPU makes them, by their symbols."""
    text = "#include <cstdio>\n#include <cstdlib>\n"
    for number, (symbol, name) in enumerate(names.items()):
        said = f"Cannot use GPU in CPU-only Caffe: {name}"
        text += (
            f'extern "C" void stub{number}() __asm__("{symbol}");\n'
            f'void stub{number}() {{ std::fputs("{said}\\n", stderr); std::abort(); }}\n'
        )
    return text


_ADVICE = (
    (
        r"LayerParameter'\}? has no member named '(mutable|set|add|clear)_",
        "a field that --proto adds to LayerParameter can be read by the layer, and not be written",
    ),
    (
        r"'\w+Parameter\w*' (does not name a type|was not declared|has not been declared)|"
        r"'\w+Parameter\w*' is not a (member|class)|"
        r"LayerParameter'\} has no member named|LayerParameter' has no member named",
        "a message of the layer's own in caffe.proto, which this Caffe's does not have: "
        "--proto FILE takes the caffe.proto that has it, or the part that was added to it",
    ),
    (
        r"Parameter'\}? has no member named",
        "a field that a fork added to a message of Caffe's own: a plug-in cannot have it (--proto "
        "adds messages, and fields of LayerParameter): --proto FILE with the caffe.proto that has "
        "it builds a Caffe with it",
    ),
    (
        r"error: ?.*'?(cuda\w*|cublas\w*|cudnn\w*|caffe_gpu_\w+|CUDA_\w+|__global__)\b|"
        r"(cuda|cudnn|cublas|thrust)\w*(/\S+)?(\.h|\.hpp|\.cuh)?: No such file",
        "code for a GPU, and this Caffe has no CUDA: put it into the .cu file, or between "
        "#ifndef CPU_ONLY and #endif",
    ),
    (
        r"class caffe::(Layer|Blob|Net|SyncedMemory|LossLayer|Caffe)\b.*has no member named|"
        r"is not a member of 'caffe(::Caffe)?'",
        "Caffe 1.0's class or function is another than the fork's: write it with what Caffe 1.0 "
        "has, add the source that defines it with --load, or add the fork's header and source of "
        "Caffe's core (--load blob.hpp --load blob.cpp), with which a Caffe is built",
    ),
    (
        r"invalid new-expression of abstract class|marked '(override|final)', but",
        "Caffe 1.0's base class declares other functions than the one that the layer was written "
        "for",
    ),
    (
        r"multiple definition of",
        "two files of --load define the same class or function: give one of them",
    ),
    (
        r": No such file or directory",
        "--path DIR adds the folder with that header; a header caffe/layers/NAME may lie in DIR "
        "itself, any other under its path",
    ),
)
"""Signs in what a compiler says, and what they mean for who has the layer from elsewhere."""


def advice_on(printed: str) -> str:
    """What to do about what the compiler said, as its first error goes; "" if nothing is known."""
    errors = [line for line in printed.splitlines() if re.search(r"\berror\b|multiple", line)]
    for line in errors[:1]:
        for sign, advice in _ADVICE:
            if re.search(sign, line):
                return advice
    return ""


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.DOTALL)
_EMPTY = re.compile(r"NOT_IMPLEMENTED\s*;")
_CLASS = re.compile(r"\bclass\s+(\w+)\s*(?:final\s*)?:")
_FUNCTION = re.compile(
    r"\b(?:(\w+)\s*<\s*\w+\s*>\s*::\s*)?((?:Forward|Backward)_cpu)\s*\([^;{}]*\{"
)


def without_code(sources: Iterable[Path]) -> list[Missing]:
    """The functions for the CPU whose whole code is NOT_IMPLEMENTED, as far as the text tells.

    Of a layer without a forward, its backward is not told: nobody can reach it.
    """
    found = []
    for source in sources:
        text = source.read_text(errors="replace")
        blank = _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
        for match in _FUNCTION.finditer(blank):
            if not _EMPTY.match(blank[match.end() :].lstrip()):
                continue
            classes = _CLASS.findall(blank[: match.start()])
            owner = match[1] or (classes[-1] if classes else source.stem)
            line = blank.count("\n", 0, match.start(2)) + 1
            found.append(Missing(f"{source.name}:{line}", owner, match[2] == "Forward_cpu"))
    no_forward = {each.owner for each in found if each.forward}
    return [each for each in found if each.forward or each.owner not in no_forward]
