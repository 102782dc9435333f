"""Parts of a run, for several machines: each test is in one of them, by its id alone."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree  # a report of one's own
from collections.abc import Iterable, Mapping
from pathlib import Path

from caffe_parity.errors import BadRequest


def parsed(text: str) -> tuple[int, int]:
    """The number of a shard, from 1, and how many there are: "2/4".

    Raises:
        BadRequest: it is none.
    """
    number, slash, count = text.partition("/")
    if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise BadRequest(f"shard {text!r}: expected its number and how many there are, such as 2/4")


def times_of(junit: Path) -> dict[str, float]:
    """The seconds of each test of an earlier run, by name: test_parity[LAYER-VARIANT-CASE].

    Args:
        junit: the JUnit XML file that pytest wrote, or the folder with `junit.xml`.

    Raises:
        BadRequest: it cannot be read.
    """
    junit = junit / "junit.xml" if junit.is_dir() else junit
    try:
        cases = ElementTree.parse(junit).iter("testcase")  # noqa: S314
        return {each.attrib["name"]: float(each.attrib["time"]) for each in cases}
    except OSError as error:
        raise BadRequest(f"cannot read the times of {junit}: {error.strerror}") from error
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise BadRequest(f"{junit} is no JUnit XML file of pytest's: {error}") from error


def shards(ids: Iterable[str], count: int, times: Mapping[str, float]) -> dict[str, int]:
    """The shard of each test, from 1.

    Where no times are known, a test stays in its shard whatever other tests there are. Else the
    longest go first, each to the shard that has least; those without a time count as the median.

    Args:
        ids: of all tests; their order does not matter.
        count: of shards.
        times: of `times_of`.
    """
    hashes = {each: hashlib.sha256(each.encode()).hexdigest() for each in ids}
    if not times:
        return {each: int(value, 16) % count + 1 for each, value in hashes.items()}
    usual = statistics.median(times.values())
    seconds = {each: times.get(each.rpartition("::")[2], usual) for each in hashes}
    loads = [0.0] * count
    found = {}
    for each in sorted(hashes, key=lambda each: (-seconds[each], hashes[each])):
        least = loads.index(min(loads))
        loads[least] += seconds[each]
        found[each] = least + 1
    return found


def code(folder: Path) -> str:
    """What is the same where the same code runs: this tool, and the tests with what they import.

    Of a repository it is also the commit and what differs from it, so that the nets count.

    Args:
        folder: of the tests' repository.
    """
    own = Path(__file__).parent
    loaded = [getattr(each, "__file__", None) for each in list(sys.modules.values())]
    files = {Path(each).resolve() for each in loaded if each}
    theirs = [each for each in files if each.is_relative_to(folder) and own not in each.parents]
    found = hashlib.sha256()
    for root, some in ((own, own.rglob("*.py")), (folder, theirs)):
        for each in sorted(file for file in some if file.is_file()):
            found.update(f"{each.relative_to(root)}\n".encode() + each.read_bytes())
    for command in (["rev-parse", "HEAD"], ["diff", "HEAD", "--no-ext-diff"]):
        git = ["git", "-c", f"safe.directory={folder}", "-C", str(folder), *command]
        with contextlib.suppress(OSError):  # there is no git
            found.update(subprocess.run(git, capture_output=True).stdout)
    return found.hexdigest()[:16]


def digest(found: Mapping[str, int]) -> str:
    """What is the same in all shards of one run: which test is in which."""
    text = "\n".join(f"{each} {found[each]}" for each in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
