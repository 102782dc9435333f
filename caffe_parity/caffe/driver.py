"""What the CUDA driver says about this machine, asked directly: cheap, and without PyTorch."""

from __future__ import annotations

import ctypes
from functools import cache

from caffe_parity.errors import ParityError

ABSENT = (34, 100)  # CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NO_DEVICE, <cuda.h>


class DriverError(ParityError):
    """There is a driver that does not start: not the same as no device; the message says more."""


@cache
def devices() -> tuple[str, ...]:
    """The names of the CUDA devices; none where there is no driver, or no device.

    Raises:
        DriverError: the driver does not start.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status in ABSENT:
        return ()
    if status:
        raise DriverError(f"the CUDA driver does not start: its error {status}")
    return tuple(_name(driver, index) for index in range(count.value))


def _name(driver: ctypes.CDLL, index: int) -> str:
    device = ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(device), index):
        return "unknown"
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode()


def no_device() -> str | None:
    """Why nothing can run on a GPU here, or None where something can."""
    try:
        return None if devices() else "no CUDA device"
    except DriverError as error:
        return str(error)


def version() -> str:
    """The newest CUDA that the driver supports, such as "13.0"; "unknown" without a driver."""
    number = ctypes.c_int()
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except OSError:
        return "unknown"
    return "unknown" if status else f"{number.value // 1000}.{number.value % 1000 // 10}"
