"""A host that runs Python itself and loads the C library.

python_host.py scan|pseudonym|failures LIBRARY BUNDLE SLIDE.rgb; prints JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

SIDE_PX = 1024
what, library, bundle, slide = sys.argv[1:]
streams = sys.stdout, sys.stderr
pixels = Path(slide).read_bytes()
capi = ctypes.CDLL(library)
capi.pgrt_last_error.restype = ctypes.c_char_p
LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p)


class OpenOptions(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("batch", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("cache_dir", ctypes.c_char_p),
    )


class ScanOptions(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("width_px", ctypes.c_int32),
        ("height_px", ctypes.c_int32),
        ("has_background", ctypes.c_uint32),
        ("background", ctypes.c_uint8 * 4),
        ("anonymize", ctypes.c_uint32),
        ("mpp", ctypes.c_double),
        ("slide_id", ctypes.c_char_p),
        ("partial_bytes", ctypes.c_uint64),
        ("waiting_tiles", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("progress", ctypes.c_void_p),
        ("progress_user", ctypes.c_void_p),
    )


class ReportInfo(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("prediction_count", ctypes.c_uint32),
        ("tiles", ctypes.c_uint64),
        ("partial", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("json", ctypes.c_char_p),
    )


def sized(struct):
    struct.struct_size = ctypes.sizeof(struct)
    return ctypes.byref(struct)


def succeed(status):
    assert status == 0, (status, capi.pgrt_last_error())


def push(scan):
    corner, stride = ctypes.c_int64(0), ctypes.c_int64(3 * SIDE_PX)
    return capi.pgrt_push_tile(scan, pixels, SIDE_PX, SIDE_PX, stride, 1, corner, corner)


def report_of(scan):
    succeed(push(scan))
    report, info = ctypes.c_void_p(), ReportInfo()
    succeed(capi.pgrt_finish(scan, ctypes.c_double(60), ctypes.byref(report)))
    succeed(capi.pgrt_report_get_info(report, sized(info)))
    document = json.loads(info.json)
    capi.pgrt_report_free(report)
    return document


def failures_of(scan):
    """What the host is told where a push is busy, and where it raises what nobody expects."""
    from pathgene_rt.scan.session import ScanSession

    outcomes = [False, RuntimeError("odd\n\u00fc" * 999), MemoryError(), KeyboardInterrupt("now")]
    lines = []

    def push_once(*arguments, **options):
        outcome = outcomes.pop(0)
        if outcome is not False:
            raise outcome
        return outcome

    log = LogCallback(lambda user, level, line: lines.append((level, line.decode())))
    succeed(capi.pgrt_set_log(log, None))
    ScanSession.push = push_once
    told = [(push(scan), capi.pgrt_last_error().decode()) for _ in range(4)]
    succeed(capi.pgrt_set_log(None, None))
    assert any(level == 1 and "push_once" in line for level, line in lines)
    return told


predictor, scan = ctypes.c_void_p(), ctypes.c_void_p()
succeed(capi.pgrt_init(None))
options = OpenOptions(precision=b"float32", threads=1)
succeed(capi.pgrt_open(bundle.encode(), sized(options), ctypes.byref(predictor)))
options = ScanOptions(width_px=SIDE_PX, height_px=SIDE_PX, mpp=0.5, slide_id=b"slide")
options.anonymize = what == "pseudonym"
succeed(capi.pgrt_scan_begin(predictor, sized(options), ctypes.byref(scan)))
result = {"scan": report_of, "pseudonym": report_of, "failures": failures_of}[what](scan)
capi.pgrt_scan_free(scan)
capi.pgrt_predictor_free(predictor)
assert (sys.stdout, sys.stderr) == streams
streams[0].write(json.dumps(result))
