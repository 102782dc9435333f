"""Installs a real Caffe into the cache folder, and nothing else; prints the folder."""

from __future__ import annotations

import argparse

from caffe_parity.cli import path
from caffe_parity.errors import BadRequest

EXAMPLES = """\
  parity install-caffe
  parity install-caffe --cuda --pack caffe-cuda.tar.xz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity install-caffe`."""
    parser.add_argument("--cuda", action="store_true", help="build one with CUDA (7 minutes)")
    parser.add_argument(
        "--pack", type=path, metavar="FILE.tar.xz", help="and pack it for a machine with a GPU"
    )
    parser.add_argument(
        "--load",
        type=path,
        action="append",
        default=[],
        metavar="FILE.cpp",
        help="with this compiled layer beside the archive's caffe-python; may be given again",
    )


def carried_out(options: argparse.Namespace) -> int:
    """Installs, and packs if that is asked for; returns the exit status.

    Raises:
        BadRequest: --pack without --cuda, or --load of a file that is not there.
        InstallError, PackError: it cannot be done.
    """
    from caffe_parity.caffe import cuda_build, cuda_pack
    from caffe_parity.caffe.install import ensure

    if options.pack and not options.cuda:
        raise BadRequest("--pack needs --cuda: only the Caffe with CUDA is built here")
    if options.load and not options.pack:
        raise BadRequest("--load needs --pack: it says what is packed with that Caffe")
    for file in options.load:
        if not file.is_file():
            raise BadRequest(f"--load {file}: there is no such file")
    if options.pack:
        cuda_pack.check_target(options.pack)
    root = cuda_build.build() if options.cuda else ensure()
    print(root)
    if options.pack:
        size = cuda_pack.pack(root, options.pack, options.load)
        print(f"{options.pack}: {size / 1e6:.1f} MB")
    return 0
