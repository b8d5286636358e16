"""Which calls of native libraries in our own source were executed, and whether they raised.

Wrapping native objects would change what is tested. Instead the interpreter is asked which of our
own instructions run: of every function call in the source of the GPU engines the place is known
from its syntax tree, and an instruction knows its place in the source. That holds for any library,
however it is bound (pybind11, Boost.Python, Cython, ctypes), in all threads.
"""

from __future__ import annotations

import ast
import functools
import json
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
``tests/native_calls.py``, which asks mypy; a test compares the two."""

Position = tuple[int, int, int, int]
"""First line, last line, first column, column after the last, as ``co_positions`` gives them."""


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
                place = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
                yield Site(file, function, name, place)
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        inner = f"{function}.{node.name}".lstrip(".") if named else function
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    yield from visit(ast.parse(source), "")


def called_name(call: ast.Call) -> str:
    """The last name before the brackets; empty for what has none, as ``table[0]()``."""
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
        self._executed: set[str] = set()
        self._raised: dict[str, set[str]] = {}
        self._files = {key.partition(":")[0] for key in table}

    def start(self) -> None:
        if sys.version_info >= (3, 12):
            self._monitor()
        else:
            threading.settrace(self._on_call)
            sys.settrace(self._on_call)

    def stop(self) -> None:
        if sys.version_info >= (3, 12):
            tool, none = sys.monitoring.PROFILER_ID, sys.monitoring.events.NO_EVENTS
            sys.monitoring.set_events(tool, none)
            sys.monitoring.free_tool_id(tool)
        else:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]  # documented to take None

    def found(self) -> dict[str, list[str]]:
        """What each executed site raised, by its key; empty lists for those that raised nothing."""
        return {key: sorted(self._raised.get(key, ())) for key in sorted(self._executed)}

    # Python 3.11: trace functions, with an event for each instruction.

    def _on_call(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        if self._known(frame.f_code):
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
                if self._known(code):
                    monitoring.set_local_events(tool, code, events.INSTRUCTION)
                return monitoring.DISABLE

            def instruction(code: CodeType, offset: int) -> Any:
                self._ran(code, offset)
                return monitoring.DISABLE

            def raised(code: CodeType, offset: int, error: BaseException) -> None:
                if self._known(code):
                    self._raise(code, offset, error, error.__traceback__)

            monitoring.register_callback(tool, events.PY_START, started)
            monitoring.register_callback(tool, events.INSTRUCTION, instruction)
            monitoring.register_callback(tool, events.RAISE, raised)
            monitoring.set_events(tool, events.PY_START | events.RAISE)

    def _known(self, code: CodeType) -> bool:
        return _below(code.co_filename, self._root) in self._files

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
        if below is None or not Path(below.tb_frame.f_code.co_filename).is_relative_to(self._root):
            words = " ".join(str(error).split())[:300]
            self._executed.add(site)
            self._raised.setdefault(site, set()).add(f"{type(error).__name__}: {words}")

    @functools.cache  # noqa: B019 - lives as long as the process that records
    def _sites(self, code: CodeType) -> dict[int, str]:
        """Keys of the table by the offset of the instruction that calls them."""
        places = self._places(code.co_filename)
        found = {}
        for number, position in enumerate(code.co_positions()):
            first, last, left, right = position
            if None not in position and code.co_code[2 * number] in _CALLS:
                key = places.get((first, last, left, right))  # type: ignore[arg-type]
                if key is not None:
                    found[2 * number] = key
        return found

    @functools.cache  # noqa: B019
    def _places(self, filename: str) -> dict[Position, str]:
        source = Path(filename).read_text(encoding="utf-8")
        sites = call_sites(source, _below(filename, self._root))
        return {site.position: site.key for site in sites if site.key in self._table}


def _calls() -> frozenset[int]:
    import dis

    return frozenset(code for name, code in dis.opmap.items() if name.startswith("CALL"))


_CALLS = _calls()


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
