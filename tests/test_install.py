"""Tests of the Caffe install and of the choice of a Caffe, with real processes and a real apt.

Most of them install a stand-in for Caffe, one shell script in a package, from a small archive that
is built and signed here: it takes 0.3 s and no network, yet every step is the real one.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import io
import json
import math
import os
import platform
import random
import re
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from caffe_parity.caffe import apt, install, interpreter
from caffe_parity.caffe import cache as caches
from caffe_parity.caffe.install import Edition, InstallError
from caffe_parity.progress import Progress

REPOSITORY = Path(__file__).resolve().parents[1]
SUITE = "tiny"
CREATED = 1577836800  # 2020-01-01: signatures from the future are refused

WORKS = """#!/bin/sh
echo '{"layer_types": ["EuclideanLoss", "Python", "Reduction"], "libraries": []}'
"""


class Key:
    """An OpenPGP RSA key that signs the test archive (RFC 4880; only what gpgv needs)."""

    def __init__(self, seed: int) -> None:
        numbers = random.Random(seed)
        p, q = _prime(numbers), _prime(numbers)
        self._n = p * q
        self._d = pow(65537, -1, (p - 1) * (q - 1))
        self._body = struct.pack(">BIB", 4, CREATED, 1) + _mpi(self._n) + _mpi(65537)
        framed = b"\x99" + struct.pack(">H", len(self._body)) + self._body
        self._fingerprint = hashlib.sha1(framed).digest()
        name = f"Test archive {seed}".encode()
        certified = framed + b"\xb4" + struct.pack(">I", len(name)) + name
        self.public = _packet(6, self._body) + _packet(13, name) + self._signature(0x13, certified)

    def sign(self, data: bytes) -> str:
        """Return a detached, armored signature of `data`."""
        text = base64.encodebytes(self._signature(0x00, data)).decode()
        return f"-----BEGIN PGP SIGNATURE-----\n\n{text}-----END PGP SIGNATURE-----\n"

    def _signature(self, kind: int, data: bytes) -> bytes:
        details = b"\x05\x02" + struct.pack(">I", CREATED)  # when
        details += b"\x02\x1b\x03"  # this key certifies and signs
        details += b"\x16\x21\x04" + self._fingerprint  # by which key
        head = struct.pack(">BBBBH", 4, kind, 1, 8, len(details)) + details  # RSA, SHA-256
        digest = hashlib.sha256(data + head + struct.pack(">BBI", 4, 255, len(head))).digest()
        sha256 = bytes.fromhex("3031300d060960864801650304020105000420")  # its name, RFC 8017
        size = (self._n.bit_length() + 7) // 8
        padded = b"\x00\x01".ljust(size - 52, b"\xff") + b"\x00" + sha256 + digest
        signed = pow(int.from_bytes(padded, "big"), self._d, self._n)
        issuer = b"\x09\x10" + self._fingerprint[-8:]
        return _packet(2, head + struct.pack(">H", 10) + issuer + digest[:2] + _mpi(signed))


def _prime(numbers: random.Random) -> int:
    small = math.prod(n for n in range(3, 1000, 2) if all(n % k for k in range(3, n, 2)))
    while True:
        candidate = numbers.getrandbits(1024) | 1 << 1023 | 1 << 1022 | 1
        if math.gcd(candidate, small) == 1 and pow(2, candidate - 1, candidate) == 1:
            return candidate


def _mpi(number: int) -> bytes:
    bits = number.bit_length()
    return struct.pack(">H", bits) + number.to_bytes((bits + 7) // 8, "big")


def _packet(tag: int, body: bytes) -> bytes:
    return struct.pack(">BBI", 0xC0 | tag, 255, len(body)) + body


@functools.cache
def key(seed: int) -> Key:
    """A signing key; making one takes long enough to keep it."""
    return Key(seed)


class Archive:
    """A Debian archive in a folder: one suite, and the packages that are added to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.suite = folder / "dists" / SUITE
        self.index = self.suite / "main/binary-amd64/Packages"
        self.index.parent.mkdir(parents=True)
        (folder / "keys.gpg").write_bytes(key(1).public)
        self.edition = Edition(
            suite=SUITE,
            packages=("caffe",),
            unneeded=("un*",),
            omitted=("./usr/share/doc",),
            keyrings=(str(folder / "none.gpg"), str(folder / "keys.gpg")),
        )

    def add(self, name: str, loader: str = WORKS, depends: str = "", damaged: bool = False) -> None:
        """Build the package `name`, whose Caffe says what the script `loader` says."""
        tree = self.folder / f"{name}-tree"
        for folder in ("DEBIAN", "lib/x86_64-linux-gnu", "lib64", f"usr/share/doc/{name}"):
            (tree / folder).mkdir(parents=True)
        fields = f"Package: {name}\nVersion: 1:2.0+b1\nArchitecture: amd64\nMaintainer: nobody\n"
        fields += f"Depends: {depends}\n" * bool(depends) + "Description: for tests\n"
        (tree / "DEBIAN/control").write_text(fields)
        (tree / f"usr/share/doc/{name}/readme").touch()
        (tree / install.LOADER).write_text(loader)
        (tree / install.LOADER).chmod(0o755)
        (tree / f"lib64/{name}.so").symlink_to(f"/{install.LOADER}")
        built = self.folder / f"{name}.deb"
        subprocess.run(["dpkg-deb", "-b", "-Znone", tree, built], check=True, capture_output=True)
        if damaged:
            built.write_bytes(b"!<arch>\n" + bytes(1000))
        content = built.read_bytes()
        where = f"Filename: {built.name}\nSize: {len(content)}\nSHA256: {_sha256(content)}\n"
        with self.index.open("a") as index:
            index.write(f"{fields}{where}\n")

    def publish(self, signer: int = 1) -> None:
        """Write the Release file, signed with the key number `signer`."""
        content = self.index.read_bytes()
        release = (
            f"Origin: Debian\nLabel: Debian\nSuite: {SUITE}\nCodename: {SUITE}\n"
            "Date: Wed, 01 Jan 2020 00:00:00 UTC\nArchitectures: amd64\nComponents: main\n"
            f"SHA256:\n {_sha256(content)} {len(content)} main/binary-amd64/Packages\n"
        )
        (self.suite / "Release").write_text(release)
        (self.suite / "Release.gpg").write_text(key(signer).sign(release.encode()))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server:
    """A web server for an archive, which holds each package back until `go` is set."""

    def __init__(self, folder: Path) -> None:
        self.requests: Counter[str] = Counter()
        self.asked = threading.Event()
        self.go = threading.Event()
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests[self.path] += 1
                if self.path.endswith(".deb"):
                    outer.asked.set()
                    outer.go.wait(30)
                with contextlib.suppress(ConnectionError):  # a killed client
                    super().do_GET()

            def log_message(self, *arguments: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, which does not exist yet, and no proxy on the way to ourselves."""
    configuration = tmp_path / "apt.conf"
    configuration.write_text('Acquire::http::Proxy::127.0.0.1 "DIRECT";\n')
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    for name in ("CAFFE_PYTHON", "PARITY_BLAS", "PARITY_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def archive(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A good archive that PARITY_MIRROR points to."""
    made = Archive(tmp_path / "archive")
    made.add("unneeded")
    made.add("caffe", depends="unneeded")
    made.publish()
    monkeypatch.setenv("PARITY_MIRROR", str(made.folder))
    return made


def start(edition: Edition) -> subprocess.Popen[str]:
    """Start an install of `edition` in another process."""
    code = "import sys; from caffe_parity.caffe import install as i"
    code += f"; print(i.ensure(edition=i.{edition!r}))"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refusal(edition: Edition) -> str:
    """Return the message of an install that must fail, having left nothing but the lock."""
    with pytest.raises(InstallError) as caught:
        install.ensure(edition=edition)
    left = [path.name for path in caches.folder().glob("*")]
    assert [name for name in left if name != "caffe.lock"] == []
    message = str(caught.value)
    assert "expected: " in message and "to do: " in message and "CAFFE_PYTHON" in message
    return message


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Make `name` mean the shell script `script`."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_install_is_complete_and_made_once(archive: Archive, cache: Path) -> None:
    """An install has what it should and nothing else, and the next call needs no mirror."""
    assert install.installed(archive.edition) is None
    root = install.ensure(edition=archive.edition)
    shutil.rmtree(archive.folder)
    assert install.ensure(edition=archive.edition) == install.installed(archive.edition) == root
    assert sorted(path.name for path in cache.iterdir()) == [root.name, "caffe.lock"]
    files = {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir()}
    assert files == {install.LOADER, install.COMPLETE, "lib64/caffe.so"}
    record = json.loads((root / install.COMPLETE).read_text())
    assert record["packages"] == {"caffe": "1:2.0+b1"}
    steps = ["asking", "fetching", "unpacking", "importing"]
    assert [step.split()[0] for step in record["took"]] == steps


def test_absolute_links_stay_inside(archive: Archive) -> None:
    """A link to an absolute path leads to the file of the install, not to the host's."""
    root = install.ensure(edition=archive.edition)
    assert os.readlink(root / "lib64/caffe.so") == f"../{install.LOADER}"
    assert (root / "lib64/caffe.so").resolve() == (root / install.LOADER).resolve()


def test_changed_edition_is_a_new_folder(archive: Archive) -> None:
    """Each edition has its own folder, so that a changed one is never taken for the old one."""
    editions = [
        Edition(SUITE, ("caffe",)),
        Edition(SUITE, ("caffe", "unneeded")),
        Edition("other", ("caffe",)),
        Edition(SUITE, ("caffe",), unneeded=("un*",)),
        Edition(SUITE, ("caffe",), omitted=("un*",)),
    ]
    assert len({edition.key for edition in editions}) == len(editions)


def test_two_at_once_install_once(
    archive: Archive, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes that install at once, one waits, says so, and uses the other's result."""
    with Server(archive.folder) as server:
        monkeypatch.setenv("PARITY_MIRROR", server.address)
        first = start(archive.edition)
        assert server.asked.wait(30)
        second = start(archive.edition)
        assert second.stderr is not None
        assert "waiting for another process" in second.stderr.readline()
        server.go.set()
        outputs = [process.communicate(timeout=30)[0] for process in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0)
    assert outputs[0] == outputs[1] == f"{install.installed(archive.edition)}\n"
    assert server.requests["/caffe.deb"] == 1


def test_killed_install_is_not_taken_for_a_whole_one(
    archive: Archive, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a SIGKILL in the middle nothing counts as installed, and the next install cleans up."""
    with Server(archive.folder) as server:
        monkeypatch.setenv("PARITY_MIRROR", server.address)
        process = start(archive.edition)
        assert server.asked.wait(30)
        process.kill()
        process.communicate()
        assert len(list(cache.glob("caffe.unfinished-*"))) == 1
        assert install.installed(archive.edition) is None
        server.go.set()
        root = install.ensure(edition=archive.edition)
    assert sorted(path.name for path in cache.iterdir()) == [root.name, "caffe.lock"]


def test_interrupted_install_leaves_nothing(
    archive: Archive, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends an install at once, with nothing left behind."""
    with Server(archive.folder) as server:
        monkeypatch.setenv("PARITY_MIRROR", server.address)
        process = start(archive.edition)
        assert server.asked.wait(30)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=5)
    assert "KeyboardInterrupt" in errors
    assert [path.name for path in cache.iterdir()] == ["caffe.lock"]


def test_damaged_install_is_made_anew(archive: Archive) -> None:
    """An install of which someone has removed a part does not count, and is replaced."""
    root = install.ensure(edition=archive.edition)
    (root / install.LOADER).unlink()
    assert install.installed(archive.edition) is None
    assert (install.ensure(edition=archive.edition) / install.LOADER).exists()


def _unsigned(archive: Archive) -> None:
    (archive.suite / "Release.gpg").unlink()


def _signed_by_a_stranger(archive: Archive) -> None:
    archive.publish(signer=2)


def _list_altered(archive: Archive) -> None:
    with archive.index.open("a") as index:
        index.write("Package: more\n\n")


def _package_altered(archive: Archive) -> None:
    package = archive.folder / "caffe.deb"
    package.write_bytes(package.read_bytes().replace(b"EuclideanLoss", b"euclideanLoss"))


@pytest.mark.parametrize(
    "break_it", [_unsigned, _signed_by_a_stranger, _list_altered, _package_altered]
)
def test_only_what_debian_signed_is_installed(
    archive: Archive, break_it: Callable[[Archive], None]
) -> None:
    """An archive, a list or a package that the keys do not vouch for is refused."""
    break_it(archive)
    assert "not what Debian signed" in refusal(archive.edition)


def test_lax_host_cannot_switch_verification_off(archive: Archive, tmp_path: Path) -> None:
    """A host whose apt accepts unsigned archives still gets none here, and its hooks do not run."""
    called = tmp_path / "called"
    with (tmp_path / "apt.conf").open("a") as configuration:
        configuration.write(
            'APT::Get::AllowUnauthenticated "true"; Acquire::AllowInsecureRepositories "true";\n'
            f'APT::Update::Post-Invoke {{ "touch {called}"; }};\n'
            f'APT::Update::Pre-Invoke {{ "touch {called}"; }};\n'
        )
    good = install.ensure(edition=archive.edition)
    shutil.rmtree(good)
    _unsigned(archive)
    assert "not what Debian signed" in refusal(archive.edition)
    assert not called.exists()


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        ("http://127.0.0.1:9", "cannot be reached"),
        ("http://no-such-host.invalid/debian", "cannot be reached"),
        ("no address", "PARITY_MIRROR is 'no address'"),
        ("/no/such/folder", "does not have (all of) the suite `tiny`"),
    ],
)
def test_useless_mirror(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, mirror: str, words: str
) -> None:
    """A mirror that cannot be used is named, with what is wrong with it."""
    monkeypatch.setenv("PARITY_MIRROR", mirror)
    message = refusal(archive.edition)
    assert words in message and mirror in message
    assert re.search("to do: .*(set|correct) PARITY_MIRROR", message)


def test_mirror_without_the_suite(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that answers 404 for the suite is told apart from one that does not answer."""
    with Server(archive.folder) as server:
        monkeypatch.setenv("PARITY_MIRROR", server.address)
        message = refusal(Edition("gone", ("caffe",), keyrings=archive.edition.keyrings))
    assert "does not have (all of) the suite `gone`" in message
    assert "set PARITY_MIRROR to a mirror that has `gone`" in message


def test_mirror_without_the_package(archive: Archive) -> None:
    """A mirror that lacks a package is reported with that package's name."""
    message = refusal(Edition(SUITE, ("nothing",), keyrings=archive.edition.keyrings))
    assert "lacks a package" in message and "package nothing" in message


@pytest.mark.parametrize("loader", ["#!/bin/sh\n", "#!/bin/sh\necho boom >&2\nexit 1\n"])
def test_caffe_that_does_not_run_is_not_installed(archive: Archive, loader: str) -> None:
    """A Caffe that cannot be imported after all is removed again."""
    archive.add("broken", loader)
    archive.publish()
    message = refusal(Edition(SUITE, ("broken",), keyrings=archive.edition.keyrings))
    assert "the unpacked Caffe does not work" in message
    assert ("boom" if "boom" in loader else "exit status is 0") in message


def test_caffe_without_python_layers_is_not_installed(archive: Archive) -> None:
    """A Caffe that lacks the layer types that are needed is removed again."""
    archive.add("poor", """#!/bin/sh\necho '{"layer_types": ["EuclideanLoss"]}'\n""")
    archive.publish()
    message = refusal(Edition(SUITE, ("poor",), keyrings=archive.edition.keyrings))
    assert "its layer types are EuclideanLoss" in message


def test_archive_that_cannot_be_unpacked(archive: Archive) -> None:
    """A signed package that is no archive stops the install, and is named."""
    archive.add("garbage", damaged=True)
    archive.publish()
    message = refusal(Edition(SUITE, ("garbage",), keyrings=archive.edition.keyrings))
    assert "garbage_1%3a2.0+b1_amd64.deb could not be unpacked" in message


def test_too_small_a_disk_is_noticed_before(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk cannot hold the install, nothing is fetched."""
    usage = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = refusal(archive.edition)
    assert "the disk is full" in message and "0 MB free" in message


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("tar", "tar: ./usr/x: Cannot write: No space left on device"),
        ("apt-get", "E: Write error - write (28: No space left on device)"),
    ],
)
def test_disk_that_fills_up_in_the_middle(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    """A disk that is full only while fetching or unpacking is reported as that."""
    put_on_path(tmp_path / "bin", monkeypatch, program, f"echo '{said}' >&2; exit 2")
    message = refusal(archive.edition)
    assert "the disk is full" in message and said in message


def test_cache_that_cannot_be_written(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that cannot be made is named, and so is the way to choose another."""
    monkeypatch.setenv("PARITY_CACHE", str(archive.index / "cache"))  # below a file
    message = refusal(archive.edition)
    assert "cannot be written" in message and "set PARITY_CACHE" in message


def test_host_without_apt(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is not a Debian learns which programs it lacks."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get and bash and dpkg-deb and tar not found" in refusal(archive.edition)


def test_host_without_the_keys(archive: Archive) -> None:
    """A host without Debian's keys learns which package has them."""
    message = refusal(Edition(SUITE, ("caffe",), keyrings=(str(archive.folder / "none.gpg"),)))
    assert "debian-archive-keyring" in message


def test_other_platform(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that the packages are not made for is refused before anything is fetched."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "on aarch64" in refusal(archive.edition)


ONE_LINE = """
deb [trusted=yes] https://third.party/linux/debian bookworm stable
deb http://security.host/debian-security bookworm-security main
deb http://mirror.host/debian bookworm main
"""
DEB822 = """
Types: deb
URIs: http://third.party/repo/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://mirror.host/some/where/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


@pytest.mark.parametrize(
    ("name", "sources", "mirror"),
    [
        ("x.list", ONE_LINE, "http://mirror.host/debian"),
        ("x.sources", DEB822, "http://mirror.host/some/where"),
        ("x.list", "deb http://archive.host/ubuntu noble main", ""),
        ("x.list", "", ""),
    ],
)
def test_mirror_is_the_hosts_own(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    sources: str,
    mirror: str,
) -> None:
    """Without PARITY_MIRROR the host's Debian mirror is used, never a security or foreign one."""
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / name).write_text(sources)
    with (tmp_path / "apt.conf").open("a") as configuration:
        configuration.write(
            f'Dir::Etc::sourcelist "{tmp_path}/none"; Dir::Etc::sourceparts "{tmp_path}/parts";\n'
        )
    if mirror:
        assert apt.mirror() == mirror
    else:
        with pytest.raises(InstallError, match="no Debian mirror is named"):
            install.check_host()


def test_labelled_mirror_is_preferred() -> None:
    """A source that apt knows to be labelled Debian is taken, wherever it is."""
    labels = "Other http://a/debian/\nDebian-Security http://b/debian/\nDebian http://c/d/\n"
    assert apt._debian_of(labels, "") == "http://c/d/"


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """PARITY_CACHE wins over XDG_CACHE_HOME, which wins over the home folder."""
    monkeypatch.setenv("PARITY_CACHE", "~/p")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    assert caches.folder() == Path("/home/me/p")
    monkeypatch.delenv("PARITY_CACHE")
    assert caches.folder() == Path("/xdg/caffe-parity")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert caches.folder() == Path("/home/me/.cache/caffe-parity")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "lines"), [(Terminal(), 0), (io.StringIO(), 2)])
def test_progress_is_one_line_or_few(stream: io.StringIO, lines: int) -> None:
    """Progress is a line for each step in a log; a terminal shows nothing of what ends at once."""
    progress = Progress(stream)
    for step in ("fetching", "unpacking"):
        for done in range(100):
            progress(step, f"{done} of 100", done / 100)
    progress.close()
    assert stream.getvalue().count("\n") == lines
    assert ("fetching 0 of 100" in stream.getvalue()) == bool(lines)


# From here on with the real Caffe.


@pytest.fixture(scope="module")
def real() -> Path:
    """The root of the Caffe that is installed for the user who runs the tests."""
    return install.ensure()


@pytest.fixture
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable chooses a Caffe or a BLAS."""
    for name in ("CAFFE_PYTHON", "PARITY_BLAS"):
        monkeypatch.delenv(name, raising=False)


def run(python: interpreter.Interpreter, code: str) -> str:
    """Return what `code` prints in `python`."""
    return subprocess.run(
        [*python.command, "-c", code],
        env=os.environ | python.environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.usefixtures("no_choice")
def test_found_quickly(real: Path) -> None:
    """Finding the installed Caffe takes less than 50 ms."""
    began = time.perf_counter()
    python = interpreter.find(install=False)
    assert time.perf_counter() - began < 0.05
    assert python.source == "installed" and python.command[0] == str(real / install.LOADER)


@pytest.mark.usefixtures("no_choice")
def test_hosts_environment_stays_outside(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the host's Python settings nor its libraries reach into the installed Caffe."""
    (tmp_path / "caffe.py").write_text("raise ImportError('the wrong caffe')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib/x86_64-linux-gnu")
    python = interpreter.find()
    interpreter.verify(python)
    ask = "import caffe; print(open('/proc/self/maps').read())"
    files = {line.split(None, 5)[5] for line in run(python, ask).splitlines() if "/" in line}
    foreign = {file for file in files if ".so" in file and not file.startswith(str(real))}
    assert foreign == set()


@pytest.mark.usefixtures("no_choice")
@pytest.mark.parametrize(
    ("blas", "folder"), [("", "blas"), ("reference", "blas"), ("openblas", "openblas-pthread")]
)
def test_blas_is_the_chosen_one(
    real: Path, monkeypatch: pytest.MonkeyPatch, blas: str, folder: str
) -> None:
    """PARITY_BLAS chooses the BLAS that Caffe and its NumPy load; reference BLAS is the default."""
    monkeypatch.setenv("PARITY_BLAS", blas)
    maps = run(interpreter.find(), "import caffe; print(open('/proc/self/maps').read())")
    lines = [line for line in maps.splitlines() if "/libblas" in line]
    assert {Path(line.split()[-1]).parent.name for line in lines} == {folder}


@pytest.mark.usefixtures("no_choice")
def test_unknown_blas(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BLAS that is not there is refused, with the names of those that are."""
    monkeypatch.setenv("PARITY_BLAS", "mkl")
    with pytest.raises(interpreter.NoCaffe, match=r"'mkl'(.|\n)*reference or openblas"):
        interpreter.find()


def test_compiler_fits_the_install(real: Path, tmp_path: Path) -> None:
    """The installed g++ makes programs of Caffe's headers that run on the installed libraries."""
    source = tmp_path / "program.cpp"
    source.write_text(
        "#include <boost/shared_ptr.hpp>\n#include <cblas.h>\n#include <glog/logging.h>\n"
        "#include <google/protobuf/message.h>\n#include <gtest/gtest.h>\n#include <hdf5.h>\n"
        "int main() { const float x[2] = {3, 4};\n"
        "             return (int)cblas_sdot(2, x, 1, x, 1); }\n"
    )
    libraries = real / "usr/lib/x86_64-linux-gnu"
    subprocess.run(
        [
            *(real / "usr/bin/g++-10", "-B", real / "usr/bin", f"--sysroot={real}"),
            *("-I=/usr/include/hdf5/serial", "-I=/usr/include/x86_64-linux-gnu/openblas-pthread"),
            *(source, "-o", tmp_path / "program", f"-L{libraries}/openblas-pthread"),
            *("-lcaffe", "-lblas", "-Wl,--allow-shlib-undefined"),
        ],
        env=os.environ | {"LD_LIBRARY_PATH": str(libraries)},
        check=True,
    )
    command, environment = install.python_command(real, "openblas")
    program = [*command[:-1], str(tmp_path / "program")]
    assert subprocess.run(program, env=os.environ | environment).returncode == 25


@pytest.fixture
def wrapper(real: Path, tmp_path: Path) -> Path:
    """A program that is the installed Caffe's Python, as a user's own one would be."""
    command, environment = install.python_command(real)
    settings = " ".join(f"{name}='{value}'" for name, value in environment.items())
    words = " ".join(f"'{word}'" for word in command)
    (tmp_path / "my-python").write_text(f'#!/bin/sh\nexec env {settings} {words} "$@"\n')
    (tmp_path / "my-python").chmod(0o755)
    return tmp_path / "my-python"


@pytest.mark.parametrize("by_name", [False, True])
def test_caffe_python_wins(
    wrapper: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
) -> None:
    """CAFFE_PYTHON, a path or a name on PATH, is used, and nothing is installed."""
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CAFFE_PYTHON", wrapper.name if by_name else str(wrapper))
    python = interpreter.find()
    interpreter.verify(python)
    assert (python.command, python.source) == ((str(wrapper),), "CAFFE_PYTHON")
    assert not cache.exists()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["/no/such/python", "no-such-python", "/", "/proc/cpuinfo"])
def test_caffe_python_that_is_no_program(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A CAFFE_PYTHON that cannot be run is refused by name, not replaced by another Caffe."""
    monkeypatch.setenv("CAFFE_PYTHON", name)
    with pytest.raises(interpreter.NoCaffe, match=f"'{name}', and there is no such program"):
        interpreter.find()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f'exec {sys.executable} -S "$@"', "ModuleNotFoundError: No module named 'caffe'"),
        ("exit 0", "nothing; its exit status is 0"),
        ("kill -9 $$", "nothing; its exit status is -9"),
        ("echo one >&2; echo two >&2; exit 3", "it said: two"),
    ],
)
def test_caffe_python_without_caffe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    """A CAFFE_PYTHON that cannot import caffe is refused with the last line of what it said."""
    put_on_path(tmp_path / "bin", monkeypatch, "odd-python", script)
    monkeypatch.setenv("CAFFE_PYTHON", "odd-python")
    with pytest.raises(interpreter.NoCaffe) as caught:
        interpreter.verify(interpreter.find())
    assert said in str(caught.value) and "to do: set CAFFE_PYTHON" in str(caught.value)


def test_nothing_is_installed_on_request(cache: Path) -> None:
    """`find(install=False)` without a Caffe says what to do, and touches no disk."""
    with pytest.raises(interpreter.NotInstalled, match="tox -e parity"):
        interpreter.find(install=False)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("changed", "starts"),
    [
        ({}, True),
        ({"name": "lint"}, False),
        ({"no_test": True}, False),  # what needs no Caffe, such as parity-recorded, asks for this
        ({"torch": True}, False),
        ({"platform": "darwin"}, False),
        ({"CAFFE_PYTHON": "python3"}, False),
    ],
)
def test_caffe_is_installed_while_tox_installs_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], starts: bool
) -> None:
    """For the main job, the first time, where a Caffe can be installed and is wanted."""
    plugin = ModuleType("tox.plugin")
    plugin.impl = lambda hook: hook  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tox", ModuleType("tox"))
    monkeypatch.setitem(sys.modules, "tox.plugin", plugin)
    hook = runpy.run_path(str(REPOSITORY / "toxfile.py"))["tox_on_install"]
    if changed.get("torch"):
        (tmp_path / "torch").mkdir()
    monkeypatch.setattr(sys, "platform", changed.get("platform", "linux"))
    monkeypatch.delenv("CAFFE_PYTHON", raising=False)
    if "CAFFE_PYTHON" in changed:
        monkeypatch.setenv("CAFFE_PYTHON", changed["CAFFE_PYTHON"])
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *what, **how: started.append((what, how)))
    environment = SimpleNamespace(
        name=changed.get("name", "parity"),
        options=SimpleNamespace(no_test=changed.get("no_test", False)),
        env_site_package_dir=lambda: tmp_path,
    )
    hook(environment, [], "PythonRun", "deps")
    assert len(started) == starts
    for [command], how in started:
        monkeypatch.undo()
        done = subprocess.run([*command, "--help"], cwd=how["cwd"], capture_output=True, text=True)
        assert done.returncode == 0 and "Installs a real Caffe" in done.stdout
