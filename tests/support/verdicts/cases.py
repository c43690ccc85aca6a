"""The table of requests on the metric plane, each to be answered as stock MLflow answers it.

It is open-ended: a case is a name and requests, to be sent in order to a new run of their own. The expected answers
are not written down, they are stock MLflow's. In paths and bodies ``@active@`` stands for the case's run,
``@unknown@`` for one that does not exist, and ``@history@`` and the like for runs that all cases share.
"""

from __future__ import annotations

from typing import Any

from support.verdicts.batches import fields_of_log_batch, log_batch_cases
from support.verdicts.metrics import fields_of_log_metric, log_metric_cases
from support.verdicts.reads import bulk_histories, histories, interval_histories, routes
from support.verdicts.requests import Case, point

WRITES: list[Case] = [
    *fields_of_log_metric(),
    *log_metric_cases(),
    *fields_of_log_batch(),
    *log_batch_cases(),
]
READS: list[Case] = [*histories(), *bulk_histories(), *interval_histories()]
ROUTES: list[Case] = [*routes()]

# Logged to the shared runs before any case is sent.
HISTORY: dict[str, list[dict[str, Any]]] = {
    "history": [
        *[
            point(key="k", step=number * 7 % 25, timestamp=1000 + number % 3, value=(number * 13 % 11) / 4)
            for number in range(50)
        ],
        *[point(key="other", step=step, timestamp=5, value=step) for step in range(3)],
        *[
            point(key="nan", step=step, timestamp=5, value=value)
            for step in range(3)
            for value in ("NaN", 0, -1)
        ],
        *[point(key="inf", step=1, timestamp=5, value=value) for value in ("Infinity", "-Infinity", 1e308)],
        *[
            point(key="extreme", step=step, timestamp=time)
            for step in (-(2**63), 2**63 - 1, 0)
            for time in (0, 2**63 - 1)
        ],
        point(key="a/b c", step=0, timestamp=1, value=0.1),
    ],
    "history2": [
        point(key="k", step=number - 18, timestamp=number, value=-number / 3) for number in range(37)
    ],
    "deleted": [point(key="k", step=1)],
    "empty": [],
}
