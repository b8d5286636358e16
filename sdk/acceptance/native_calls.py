"""Which calls of native libraries in our own source were executed, and whether they raised.

Wrapping native objects would change what is tested. Instead the interpreter is asked which of our
own instructions run: of every function call in the source of the GPU engines the place is known
from its syntax tree, and an instruction knows its place in the source. That holds for any library,
however it is bound (pybind11, Boost.Python, Cython, ctypes), in all threads.
"""

from __future__ import annotations

import ast
import dis
import functools
import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

from pathgene_rt.acceptance.result import NativeCall

TABLE = Path(__file__).with_name("native_calls.json")
"""Native functions by the file, function and name under which our source calls them. Made by
``tests/support/native_calls.py``, which asks mypy; a test compares the two."""

DRIVER_FUNCTION = re.compile(r"cu[A-Z]\w+")
DRIVER_FILE = "cuda/driver.py"
"""Where functions of the CUDA driver are called by their names, for all others."""

Position = tuple[int, int]
"""Line and column after a call's closing bracket: its own, however the call is laid out, and the
same in syntax trees and in ``co_positions``, which differ in where a call begins."""


@dataclass(frozen=True)
class Site:
    """One call in our source: ``file`` below engines/, the ``function`` of ours around it, the
    ``name`` that is called, and where.
    """

    file: str
    function: str
    name: str
    position: Position

    @property
    def key(self) -> str:
        """Under which the table knows it, without line numbers: edits elsewhere do not matter."""
        return f"{self.file}:{self.function}:{self.name}"


def call_sites(source: str, file: str) -> Iterator[Site]:
    """Every call in ``source``, the text of ``file``."""

    def visit(node: ast.AST, function: str) -> Iterator[Site]:
        if isinstance(node, ast.Call):
            name = called_name(node)
            if name and node.end_lineno is not None and node.end_col_offset is not None:
                yield Site(file, function, name, (node.end_lineno, node.end_col_offset))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}".lstrip(".")
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    yield from visit(ast.parse(source), "")


def called_name(call: ast.Call) -> str:
    """The last name before the brackets; empty for what has none, as ``table[0]()``.

    Where our own code calls a function of the CUDA driver by its name, it is that.
    """
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Constant) and DRIVER_FUNCTION.fullmatch(str(first.value)):
        return str(first.value)
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def load_table() -> dict[str, str]:
    """Native functions by the key of the site that calls them."""
    table: dict[str, str] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


class NativeCalls:
    """Records, from :meth:`start` to :meth:`stop`, which known native calls our source makes.

    Start it before the threads that are to be seen. Costs a callback for each instruction of the
    engines' own files (Python 3.11), or for the first execution of each (3.12 and later): time
    nothing meanwhile.
    """

    def __init__(self, table: dict[str, str], root: Path) -> None:
        self._root = root.resolve()
        self._table = table
        self._files = {key.partition(":")[0] for key in table}
        self._by_code: dict[int, tuple[CodeType, dict[int, str]]] = {}
        self._executed: set[str] = set()
        self._raised: dict[str, set[str]] = {}

    def start(self) -> None:
        if sys.version_info >= (3, 12):
            self._monitor()
        else:
            threading.settrace(self._on_call)
            sys.settrace(self._on_call)

    def stop(self) -> None:
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            tool, events = monitoring.PROFILER_ID, monitoring.events
            monitoring.set_events(tool, events.NO_EVENTS)
            for event in (events.PY_START, events.INSTRUCTION, events.RAISE):
                monitoring.register_callback(tool, event, None)
            monitoring.free_tool_id(tool)
        else:
            sys.settrace(None)
            threading.settrace(None)

    def found(self) -> dict[str, list[str]]:
        """What each executed site raised, by its key; empty lists for those that raised nothing."""
        return {key: sorted(self._raised.get(key, ())) for key in sorted(self._executed)}

    # Python 3.11: trace functions, with an event for each instruction.

    def _on_call(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        if self._sites(frame.f_code):
            frame.f_trace_opcodes = True
            return self._on_event
        return None

    def _on_event(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self._ran(frame.f_code, frame.f_lasti)
        elif event == "exception":
            self._raise(frame.f_code, frame.f_lasti, arg[1], arg[2])
        return self._on_event

    # Python 3.12: the same from sys.monitoring, whose events can be turned off once seen.

    def _monitor(self) -> None:
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            tool, events = monitoring.PROFILER_ID, monitoring.events
            monitoring.use_tool_id(tool, "pathgene-rt acceptance")

            def started(code: CodeType, _offset: int) -> Any:
                if self._sites(code):
                    monitoring.set_local_events(tool, code, events.INSTRUCTION)
                return monitoring.DISABLE

            def instruction(code: CodeType, offset: int) -> Any:
                self._ran(code, offset)
                return monitoring.DISABLE

            def raised(code: CodeType, offset: int, error: BaseException) -> None:
                if self._sites(code):
                    self._raise(code, offset, error, error.__traceback__)

            monitoring.register_callback(tool, events.PY_START, started)
            monitoring.register_callback(tool, events.INSTRUCTION, instruction)
            monitoring.register_callback(tool, events.RAISE, raised)
            monitoring.set_events(tool, events.PY_START | events.RAISE)
            monitoring.restart_events()

    def _ran(self, code: CodeType, offset: int) -> None:
        site = self._sites(code).get(offset)
        if site is not None:
            self._executed.add(site)

    def _raise(
        self, code: CodeType, offset: int, error: BaseException, trace: TracebackType | None
    ) -> None:
        """Count ``error`` against the site unless a function of ours, below it, raised it."""
        site = self._sites(code).get(offset)
        if site is None:
            return
        while trace is not None and trace.tb_frame.f_code is not code:
            trace = trace.tb_next
        below = trace.tb_next if trace is not None else None
        file = _below(below.tb_frame.f_code.co_filename, self._root) if below else ""
        if file in ("", DRIVER_FILE):
            words = " ".join(str(error).split())[:300]
            self._executed.add(site)
            self._raised.setdefault(site, set()).add(f"{type(error).__name__}: {words}")

    def _sites(self, code: CodeType) -> dict[int, str]:
        """Keys of the table by the offset of the instruction in ``code`` that calls them."""
        known = self._by_code.get(id(code))
        if known is None:
            file = _below(code.co_filename, self._root)
            found = self._find(code, file) if file in self._files else {}
            # The code is kept, so that no other comes to have its id.
            known = self._by_code[id(code)] = code, found
        return known[1]

    def _find(self, code: CodeType, file: str) -> dict[int, str]:
        places = _keys_by_position(Path(code.co_filename), file)
        found = {}
        instructions = code.co_code[::2]
        for number, (_, line, _, column) in enumerate(code.co_positions()):
            if line is not None and column is not None and instructions[number] in _CALLS:
                key = places.get((line, column), "")
                if key in self._table:
                    found[2 * number] = key
        return found


@functools.cache
def _keys_by_position(path: Path, file: str) -> dict[Position, str]:
    return {site.position: site.key for site in call_sites(path.read_text("utf-8"), file)}


_CALLS = frozenset(code for name, code in dis.opmap.items() if name.startswith("CALL"))
"""Instructions that call."""


@functools.cache
def _below(filename: str, root: Path) -> str:
    """The name of a file of ours below ``root``; empty for any other."""
    path = Path(filename)
    if not path.is_absolute():
        return ""
    path = path.resolve() if not path.is_relative_to(root) else path
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else ""


def summary(table: dict[str, str], found: list[dict[str, list[str]]]) -> tuple[NativeCall, ...]:
    """Every native function of ``table``, with what the recordings ``found`` say of it."""
    calls: dict[str, NativeCall] = {}
    for key, function in sorted(table.items(), key=lambda item: (item[1], item[0])):
        place = key.rpartition(":")[0]
        call = calls.get(function, NativeCall(function, ()))
        raised = {words for one in found for words in one.get(key, ())}
        calls[function] = replace(
            call,
            places=(*call.places, place),
            executed=(*call.executed, *([place] if any(key in one for one in found) else [])),
            raised=(*call.raised, *sorted(raised)),
        )
    return tuple(calls.values())
