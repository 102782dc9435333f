"""The one Caffe of this process: found, installed if need be, started once, closed at the end."""

from __future__ import annotations

from caffe_parity.caffe.client import Caffe, CaffeError
from caffe_parity.caffe.install import InstallError
from caffe_parity.caffe.interpreter import NoCaffe, find


class NoneToCompareWith(Exception):
    """There is no Caffe here; the message says why and what to do."""


class SharedCaffe:
    """A Caffe that many comparisons share.

    Attributes:
        timeout: seconds after which a silent Caffe counts as a hang.
    """

    def __init__(self) -> None:
        self.timeout = 60.0
        self._caffe: Caffe | None = None
        self._refusal: str | None = None
        self._path: tuple[str, ...] | None = None

    def running(self, path: tuple[str, ...]) -> Caffe:
        """A running Caffe for Python layers in these folders.

        Caffe's Python imports a module of one name once, so that a layer would silently be another
        one from another folder: where the folders change, so does the process.

        Raises:
            NoneToCompareWith: there is none. A failed install is not tried again.
        """
        caffe = self._found()
        if self._path != path:
            if self._path is not None:
                caffe.close()
            self._path = path
        caffe.timeout = self.timeout
        return caffe

    def start(self) -> None:
        """Installs and starts Caffe; what goes wrong is told to those who need it."""
        try:
            self._found()
        except NoneToCompareWith:
            return

    def _found(self) -> Caffe:
        if self._refusal is not None:
            raise NoneToCompareWith(self._refusal)
        if self._caffe is None:
            try:
                caffe = Caffe(find())
                caffe.start()
            except (NoCaffe, InstallError, CaffeError) as error:
                self._refusal = f"there is no Caffe to compare with.\n{error}"
                raise NoneToCompareWith(self._refusal) from error
            self._caffe = caffe
        return self._caffe

    @property
    def used(self) -> Caffe | None:
        """The Caffe, if one was started."""
        return self._caffe

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._caffe is not None:
            self._caffe.close()


SHARED = SharedCaffe()
