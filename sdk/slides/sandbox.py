"""What a process that reads slides may not do: connect, write, take all memory.

For code of others in a process of its own. On Linux by the kernel, through its own calls: Landlock
(5.13 and later) forbids to change any file, seccomp to open a network connection. Elsewhere, and
where a kernel lacks them, nothing of this is forbidden, and :func:`restrict` says so.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

MEMORY_BYTES = 8 << 30
"""Of addresses: what a slide's decoded tiles take is a hundredth of that."""

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_FILTER = 38, 22, 2
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_VERSION = 1

_WRITING = 0b1111111110010
"""Landlock's rights of its first version: to write a file, to remove files and folders, to make
any; not to execute, read a file, or list a folder."""
_REFER, _TRUNCATE = 1 << 13, 1 << 14
"""Of its second and third version."""

_SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""The kernel's number of an architecture, and of its call socket()."""
_IO_URING_SETUP = 425
"""On every architecture. What a ring does, sockets among it, passes by filters of calls."""
_X32_CALLS = 0x40000000
"""From here on x86_64 numbers the calls of another convention, socket() again among them."""
_AF_UNIX, _EPERM = 1, 1


def restrict() -> list[str]:
    """Take from this process for ever what reading slides has no use for; what could not be taken,
    in words: empty where all was.
    """
    if sys.platform == "win32":
        return ["memory", "network", "writing"]
    import resource

    lacking = []
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
    except (ValueError, OSError):
        lacking.append("memory")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        kernel = _Kernel()
    except OSError:
        return [*lacking, "network", "writing"]
    if not kernel.forbid_network():
        lacking.append("network")
    if not kernel.forbid_writing():
        lacking.append("writing")
    return lacking


class _Kernel:
    """Linux. Raises OSError where this is another."""

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError("not Linux")
        self._libc = ctypes.CDLL(None, use_errno=True)
        # So that a process without rights of root may restrict itself.
        if self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs")

    def forbid_network(self) -> bool:
        """Whether sockets are forbidden now, but those within this machine."""
        known = _SOCKET.get(platform.machine())
        if known is None:
            return False
        architecture, socket = known
        load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
        allow, deny = 0x7FFF0000, 0x00050000 | _EPERM
        program = b"".join(
            struct.pack("HBBI", *one)
            for one in (
                (load, 0, 0, 4),  # the architecture
                (equal, 0, 6, architecture),
                (load, 0, 0, 0),  # the number of the call
                (at_least, 4, 0, _X32_CALLS),
                (equal, 3, 0, _IO_URING_SETUP),
                (equal, 0, 3, socket),
                (load, 0, 0, 16),  # its first argument
                (equal, 1, 0, _AF_UNIX),
                (answer, 0, 0, deny),
                (answer, 0, 0, allow),
            )
        )
        code = ctypes.create_string_buffer(program, len(program))
        pointer = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
        failed = self._libc.prctl(
            _PR_SET_SECCOMP, _SECCOMP_FILTER, ctypes.create_string_buffer(pointer), 0, 0
        )
        return not failed

    def forbid_writing(self) -> bool:
        """Whether no file can be changed, made or removed now."""
        version = self._libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
        if version < 1:
            return False
        rights = _WRITING | (_REFER if version > 1 else 0) | (_TRUNCATE if version > 2 else 0)
        handled = ctypes.create_string_buffer(struct.pack("Q", rights))
        rules = self._libc.syscall(_LANDLOCK_CREATE, handled, ctypes.c_size_t(8), 0)
        if rules < 0:
            return False
        try:
            return not self._libc.syscall(_LANDLOCK_RESTRICT, rules, 0)
        finally:
            os.close(rules)
