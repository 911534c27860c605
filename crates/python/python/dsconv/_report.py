"""The figures of runs of `dsconv distill`, and of quantized networks."""

from __future__ import annotations

import json

import numpy as np

from . import _kinds, _native
from ._model import table
from ._quantize import Quantized, _Ear


class Report:
    """What was measured, the settings, and what the networks named for each image."""

    def __init__(self, run: str, metrics: dict, config: dict, predictions: dict | None):
        #: The folder of the run, or the name of a quantized network.
        self.run = run
        self.metrics = metrics
        self.config = config
        #: Columns of equal length, as `pandas.DataFrame` takes: `image`, and the classes `label`, `fp32`, `quantized` and
        #: `adapted`, -1 where there is none.
        self.predictions = predictions

    def __repr__(self):
        return f"<dsconv.Report {self.run}>"

    def _repr_html_(self):
        networks = [name for name in ("fp32", "quantized", "adapted") if name in self.metrics]
        if not networks:
            figures = ((name, value) for name, value in self.metrics.items() if not isinstance(value, (dict, list)))
            return table((name, str(value)) for name, value in figures)

        def cells(name):
            figures = self.metrics[name]
            shown = (figures[key] for key in ("top1", "top5", "agreement", "sqnr_db"))
            return (name, *("-" if value is None else float(f"{value:.2f}") for value in shown), figures["bytes"])

        return table(map(cells, networks), ("network", "top-1 %", "top-5 %", "agreement %", "SQNR dB", "bytes"))


def read_report(run):
    """Reads the results of a run of `dsconv distill`: its folder, or its name in the folder of runs; or those of `dsconv.quantize`.

    `metrics` is the content of `metrics.json`, or a result's `report`; `config` that of `config.toml`, or the arguments.
    """
    if isinstance(run, Quantized):
        return Report(run.name, run.report, run._options, None)
    run = _kinds.path("run", run, "a path, a name, or the result of `dsconv.quantize`")
    found = json.loads(_native.read_run(run, _Ear(progress=False, depth=3, named=(run,))))
    rows = found["predictions"]
    predictions = None
    if rows is not None:
        classes = ("label", "fp32", "quantized", "adapted")
        predictions = {"image": np.array([row["image"] for row in rows], dtype=str)}
        predictions |= {name: np.array([-1 if row[name] is None else row[name] for row in rows], np.int64) for name in classes}
    return Report(found["run"], found["metrics"], found["config"], predictions)
