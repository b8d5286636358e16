"""Reports as structs of `calls.h`, for C to read without calling Python."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pathgene_rt.heads.prediction import Prediction


class ReportData:
    """One report's JSON document and predictions in C's memory, until this object is gone."""

    def __init__(
        self, ffi: Any, document: Mapping[str, Any], predictions: Sequence[Prediction]
    ) -> None:
        self._ffi = ffi
        self._kept: list[Any] = []
        self._json = self._text(json.dumps(document, ensure_ascii=False))
        self._predictions = ffi.new("pgrt_prediction[]", len(predictions))
        for struct, prediction in zip(self._predictions, predictions, strict=True):
            self._fill_prediction(struct, prediction)
        self._data = ffi.new("report_data *")

    def fill(self, *, tiles: int, partial: bool) -> Any:
        """The `report_data *` of this report."""
        info = self._data.info
        info.struct_size = self._ffi.sizeof("pgrt_report_info")
        info.prediction_count = len(self._predictions)
        info.tiles = tiles
        info.partial = partial
        info.json = self._json
        self._data.predictions = self._predictions
        return self._data

    def close(self) -> None:
        """Drop the memory."""
        self._kept.clear()

    def _keep(self, made: Any) -> Any:
        self._kept.append(made)
        return made

    def _text(self, text: str | None) -> Any:
        if text is None:
            return self._ffi.NULL
        return self._keep(self._ffi.new("char[]", text.encode(errors="replace")))

    def _doubles(self, values: Sequence[float]) -> Any:
        return self._keep(self._ffi.new("double[]", list(values)))

    def _fill_prediction(self, struct: Any, prediction: Prediction) -> None:
        struct.struct_size = self._ffi.sizeof("pgrt_prediction")
        struct.class_count = len(prediction.classes)
        struct.head = self._text(prediction.head)
        struct.task = self._text(prediction.kind)
        struct.gene = self._text(prediction.gene)
        struct.call = self._text(prediction.call)
        names = [self._text(name) for name in prediction.classes]
        struct.classes = self._keep(self._ffi.new("const char *[]", names))
        struct.probabilities = self._doubles(prediction.probabilities)
        if prediction.interval is not None:
            low, high = zip(*prediction.interval, strict=True)
            struct.interval_low, struct.interval_high = self._doubles(low), self._doubles(high)
        decision = prediction.decision
        reasons = [reason.text for reason in decision.reasons] if decision else []
        struct.reason = self._text(" ".join(reasons) or None)
        struct.threshold = math.nan if prediction.threshold is None else prediction.threshold
