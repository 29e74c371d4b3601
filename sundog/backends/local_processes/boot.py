"""What a process of a session is told before it can import anything of ours: the boot record, in an anonymous file.

It is a dict of plain values, marshalled: both ends are the same interpreter, and reading it costs no import. Entries:

``config`` (builtins of ``Config``), ``session`` (the mark), ``seed`` (hex digits, or None), ``record`` (a path, or None),
``redis`` (fields of ``control_store.Where``, or None), ``driver_pid``, ``sys_path``, ``argv``, ``main_file`` (of the driver's
``__main__``, or None), ``descriptor_limits`` (the driver's), ``link``, ``arena``, ``progress`` (descriptors),
``check_invariants``; and where a test sets them, ``host`` and ``worker`` (``module:callable``, run instead of
``core.host.Host`` and ``worker_main.main``).
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Mapping
from typing import Any

# Collections during imports find nothing. msgspec asks typing_extensions, at a price of a third of its own import (inspect,
# ast, tokenize), for what typing has since Python 3.11: while it loads, it is told that there is none.
_SOURCE = """\
import gc; gc.disable()
import marshal, os, sys
fd = int(sys.argv[1])
boot = marshal.loads(os.pread(fd, os.fstat(fd).st_size, 0))
sys.path[:] = boot["sys_path"]
if "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None
    import msgspec
    del sys.modules["typing_extensions"]
from {module} import {name}
{name}(fd, boot)
"""


def boot_source(entry: str) -> str:
    """Return the program that reads the record from the descriptor ``argv[1]`` and calls ``module:callable`` with both."""
    module, _, name = entry.partition(":")
    return _SOURCE.format(module=module, name=name)


def write_boot(record: Mapping[str, Any]) -> int:
    """Return the descriptor, which closes on exec, of an anonymous file with ``record``."""
    data = marshal.dumps(dict(record))
    fd = os.memfd_create("sundog-boot", os.MFD_CLOEXEC)
    os.write(fd, data)
    return fd
