"""The Caffe of this process, which all comparisons share: found, installed, started, closed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_parity.caffe.driver import no_device
from caffe_parity.contract import ParityError

if TYPE_CHECKING:  # it needs Linux; a port wants to know the device where there is none, too
    from caffe_parity.caffe.client import Caffe


class Session:
    """One Caffe at a time, on the device that was chosen.

    Attributes:
        timeout: seconds after which a silent Caffe counts as a hang.
        device: "cpu" or "cuda": where Caffe and the ports compute.
    """

    def __init__(self) -> None:
        self.timeout = 60.0
        self.device = "cpu"
        self._caffe: Caffe | None = None
        self._given: Caffe | None = None
        self._refusal: ParityError | None = None
        self._spare: Caffe | None = None
        self._built: dict[Path, Caffe] = {}
        self._paths: dict[Path | None, tuple[str, ...]] = {}

    def use(self, caffe: Caffe | None) -> None:
        """From now on this Caffe, which whoever gives it closes; None for one of its own again."""
        self._given = caffe

    def running(self, path: tuple[str, ...] = (), built: Path | None = None) -> Caffe:
        """The Caffe for Python layers in these folders.

        Where the folders change, so does the process: what the layers of one have done to Caffe and
        to NumPy is no affair of the others'.

        Args:
            path: folders of Python layers.
            built: the folder of a Caffe that was built with a user's files; None for the usual one.

        Raises:
            NoCaffe, InstallError: there is none. A failed install is not tried again.
        """
        caffe = self._with_files(built) if built else self._given or self._found()
        known = self._paths.get(built)
        if path and known != path:
            if known is not None and (built or self._given is None):
                caffe.close()
            self._paths[built] = path
        caffe.timeout = self.timeout
        return caffe

    def _with_files(self, folder: Path) -> Caffe:
        if folder not in self._built:
            from caffe_parity.caffe import client, interpreter

            usual = (self._given or self._found()).interpreter
            self._built[folder] = client.Caffe(interpreter.with_files(usual, folder))
        return self._built[folder]

    def obstacle(self) -> str | None:
        """Why nothing can run on the chosen device here, or None where something can."""
        return no_device() if self.device == "cuda" else None

    def launch(self) -> None:
        """Lets an installed Caffe be imported while this process does something else.

        What goes wrong here goes wrong again, and is reported, where Caffe is needed.
        """
        from caffe_parity.caffe.interpreter import find

        with contextlib.suppress(ParityError, OSError):
            if self.device == "cpu" and self._given is None:
                find(install=False)
                self._found().launch()

    def launch_spare(self) -> None:
        """Lets a second process import Caffe, for `renew`; on a CPU alone, where it is cheap."""
        from caffe_parity.caffe.client import Caffe

        if self._caffe is not None and self.device == "cpu" and self._spare is None:
            self._spare = Caffe(self._caffe.interpreter)
            with contextlib.suppress(ParityError):
                self._spare.launch()

    def renew(self) -> None:
        """Puts a fresh process in the place of the one that runs, to import Python layers anew."""
        if self._caffe is not None:
            self._caffe.close()
            self._caffe, self._spare = self._spare or self._caffe, None
        for each in self._built.values():
            each.close()
        self._paths.clear()

    def start(self) -> None:
        """Installs and starts Caffe; on a GPU, proves that it is one.

        Raises:
            ParityError: there is none, or it does not start.
        """
        from caffe_parity.caffe import gpu

        caffe = self._given or self._found()
        caffe.timeout = self.timeout
        caffe.start()
        if isinstance(caffe, gpu.GpuCaffe):
            gpu.prove(caffe)

    def _found(self) -> Caffe:
        if self._refusal is not None:
            raise self._refusal
        if self._caffe is None:
            from caffe_parity.caffe import client, gpu, interpreter

            try:
                self._caffe = (
                    gpu.gpu_caffe() if self.device == "cuda" else client.Caffe(interpreter.find())
                )
            except ParityError as error:
                self._refusal = error
                raise
        return self._caffe

    @property
    def used(self) -> Caffe | None:
        """The Caffe, if one was started."""
        every = [*self._built.values(), self._given or self._caffe]
        return next((each for each in every if each is not None and each.greeting), None)

    def close(self) -> None:
        """Ends the processes, if there are any."""
        for each in (self._caffe, self._spare, *self._built.values()):
            if each is not None:
                each.close()
        self._spare = None
        self._built.clear()


SESSION = Session()
"""The one that every variant runs in."""
