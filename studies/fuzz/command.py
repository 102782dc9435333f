"""What `python -m studies.fuzz` does: a search, or the replay of a folder."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from caffe_impl.variants import LAYERS as PYTHON_LAYERS
from caffe_impl.variants import CaffeVariant
from caffe_parity.caffe.client import CaffeError
from caffe_parity.caffe.install import InstallError
from caffe_parity.caffe.interpreter import NoCaffe, find
from caffe_parity.contract import Variant
from parity_tests.nets import UnusableNet, variant_of
from parity_tests.registry import registered
from reference.layers import LAYERS
from studies.fuzz import folder as disk
from studies.fuzz.execute import check
from studies.fuzz.search import Caffes, Search, Tally, with_caffe


class Unusable(Exception):
    """What was asked cannot be carried out; the message says why."""


def carried_out(options: argparse.Namespace, start: float) -> int:
    """Does what the options say; returns the exit status.

    Args:
        options: of the command line.
        start: when the program began, in `time.monotonic`.
    """
    try:
        return _replay(options) if options.replay else _search(options, start)
    except (Unusable, disk.Damaged, UnusableNet) as error:
        print(f"fuzz: {error}", file=sys.stderr)
    except (NoCaffe, InstallError) as error:
        print(f"fuzz: no Caffe to run.\n{error}", file=sys.stderr)
    except CaffeError as error:
        print(f"fuzz: the net cannot be run: {error}", file=sys.stderr)
    except OSError as error:
        print(f"fuzz: {error}", file=sys.stderr)
    return 2


def _search(options: argparse.Namespace, start: float) -> int:
    variants = _selected(options)
    able = [variant for variant in variants if not variant.cannot_run()]
    caffes = Caffes(find(), options.timeout)
    try:
        print(f"seed {options.seed}, {options.budget:g} s")
        search = Search(options.report, options.seed, start + options.budget)
        tallies = search.run(with_caffe(able, caffes))
    finally:
        caffes.close()
    for variant in variants:
        obstacle = variant.cannot_run()
        if obstacle:
            print(f"{variant.layer}-{variant.name}: not run: {obstacle}")
    _print_table(tallies)
    print(f"{time.monotonic() - start:.1f} s")
    return 1 if any(tally.finding for tally in tallies) else 0


def _print_table(tallies: list[Tally]) -> None:
    """A line for each variant; one that ran nothing must not look like one that agrees."""
    width = max((len(tally.name) for tally in tallies), default=0)
    print(f"{'':{width}}  examples  left out  seconds")
    for tally in tallies:
        verdict = tally.finding.verdict if tally.finding else "nothing found"
        if not tally.examples:
            verdict = "nothing ran: the budget is too small"
        print(
            f"{tally.name:{width}}  {tally.examples:8}  {tally.undefined:8}  {tally.seconds:7.1f}"
            f"  {verdict}"
        )


def _selected(options: argparse.Namespace) -> list[Variant]:
    """The variants that the options name.

    Raises:
        Unusable: there is none, or --net lacks its layer.
        UnusableNet: the net cannot be compared.
    """
    if options.layer is not None and options.layer not in LAYERS:
        raise Unusable(f"unknown layer {options.layer!r}; known: {', '.join(LAYERS)}")
    if options.net is not None:
        if options.layer is None:
            raise Unusable(f"--net needs --layer, what it should compute: {', '.join(LAYERS)}")
        return [variant_of(options.net, options.layer, options.path, options.timeout)]
    chosen = [
        variant
        for variant in registered()
        if options.variant in (None, variant.name) and options.layer in (None, variant.layer)
    ]
    if not chosen:
        names = ", ".join(dict.fromkeys(variant.name for variant in registered()))
        raise Unusable(f"no variant {options.variant!r} of layer {options.layer}; known: {names}")
    return chosen


def _replay(options: argparse.Namespace) -> int:
    """Runs the program of a folder against the code as it is now."""
    saved = disk.read(options.replay)
    caffes = Caffes(find(), options.timeout)
    try:
        [variant] = with_caffe([_variant(saved, options.path)], caffes)
        finding = check(variant, saved.program)
    finally:
        caffes.close()
    if finding is None:
        print("it agrees with the reference")
        return 0
    print(f"{finding.verdict}: {finding.words}")
    if finding.detail:
        print(finding.detail)
    return 1


def _variant(saved: disk.Saved, path: list[str]) -> Variant:
    """The variant that a folder names, with the folder's net.

    Raises:
        Unusable: nothing has that name here.
    """
    for variant in registered():
        if (variant.layer, variant.name) == (saved.layer, saved.variant):
            if isinstance(variant, CaffeVariant) and saved.net:
                return replace(variant, net=lambda case: saved.net)
            return variant
    if not saved.net:
        raise Unusable(f"there is no variant {saved.variant!r} of {saved.layer}, and no net either")
    folders = tuple(path) or (str(PYTHON_LAYERS),)
    return CaffeVariant(saved.variant, saved.layer, lambda case: saved.net, path=folders)
