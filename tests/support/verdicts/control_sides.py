"""The two servers of a differential test of the control plane, and what their databases hold afterwards."""

from __future__ import annotations

import itertools
import json
import re

import sqlalchemy as sa

from support.raw_http import Answer, RawClient
from support.verdicts.requests import UNKNOWN, Request

_ID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
# What differs by nature: times of now, random names, and experiments' numbers where they stand for one.
_TIME = re.compile(rb"(?<![0-9])1[0-9]{12}(?![0-9])")
_NAME = re.compile(rb"(?<![a-z0-9-])[a-z]{3,13}-[a-z]{2,8}(?:-[0-9]{0,4})?(?![0-9a-z-])")
_NUMBER = re.compile(
    rb'("experiment_id": ?"?|artifacts:/|id=|experiment |with id |experiment_id\)=\([^)]*, )[0-9]+(?=["/, .})]|$)'
)
_case_numbers = itertools.count(1)
TABLES = {
    "experiments": "experiment_id = :experiment",
    "experiment_tags": "experiment_id = :experiment",
    "runs": "experiment_id = :experiment",
    "tags": "run_uuid IN (SELECT run_uuid FROM runs WHERE experiment_id = :experiment)",
    "params": "run_uuid IN (SELECT run_uuid FROM runs WHERE experiment_id = :experiment)",
    "datasets": "experiment_id = :experiment",
    "inputs": "source_id IN (SELECT run_uuid FROM runs WHERE experiment_id = :experiment)"
    " OR destination_id IN (SELECT run_uuid FROM runs WHERE experiment_id = :experiment)",
    "logged_models": "experiment_id = :experiment",
    "logged_model_params": "experiment_id = :experiment",
    "logged_model_tags": "experiment_id = :experiment",
}


class ControlSide:
    """One server over one database. Ids are named ``@hex0@``, ``@hex1@``, … in the order in which answers show them,
    and these names stand for them in later requests. ``@experiment@`` and ``@name@`` are the case's experiment,
    ``@active@`` and ``@deleted@`` runs of it, ``@model@`` a model."""

    def __init__(self, url: str, database: str) -> None:
        self.client = RawClient(url)
        self._engine = sa.create_engine(database)
        self.marks: dict[str, str] = {}
        self._experiment = 0

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        self._engine.dispose()

    def begin(self, number: int) -> None:
        """An experiment of the case's own, and what stands in it."""
        name = f"control case {number}"
        self._experiment = int(self.client.call("experiments/create", {"name": name})["experiment_id"])
        self.marks = {
            "unknown": UNKNOWN,
            "experiment": str(self._experiment),
            "name": name,
            "active": self._new_run(),
            "deleted": self._new_run(),
        }
        self.client.call("runs/delete", {"run_id": self.marks["deleted"]})
        model = {"experiment_id": self.marks["experiment"], "name": "m"}
        made = self.client.call("logged-models", model)["model"]["info"]["model_id"]
        self.marks["model"] = made.removeprefix("m-")

    def _new_run(self) -> str:
        body = {"experiment_id": str(self._experiment), "run_name": "case", "start_time": 1, "user_id": "u"}
        made: str = self.client.call("runs/create", body)["run"]["info"]["run_id"]
        return made

    def send(self, request: Request) -> Answer:
        """Send one request of a case, and name what its answer shows."""
        headers = {} if request.content_type is None else {"Content-Type": request.content_type}
        path = self._fill(request.path.replace("%40", "@").encode()).decode().replace(" ", "%20")
        body = None if request.body is None else self._fill(request.body)
        answer = self.client.send(request.method, path, body, headers)
        return Answer(answer.status, self._name(answer.body))

    def rows(self) -> dict[str, list[str]]:
        """Every row that belongs to the case, named."""
        found: dict[str, list[str]] = {}
        with self._engine.connect() as connection:
            for table, where in TABLES.items():
                rows = connection.execute(
                    sa.text(f"SELECT * FROM {table} WHERE {where}"), {"experiment": self._experiment}
                )
                texts = [json.dumps(dict(row._mapping), default=str).encode() for row in rows]
                found[table] = sorted(self._name(text, new=b"@id@").decode() for text in texts)
        return found

    def _fill(self, text: bytes) -> bytes:
        for name, own in self.marks.items():
            text = text.replace(f"@{name}@".encode(), own.encode())
        return text

    def _name(self, text: bytes, new: bytes | None = None) -> bytes:
        """Text with names for ids. ``new`` is for all ids that no answer has shown: those of edges and datasets."""
        for name, own in self.marks.items():
            if name not in ("experiment", "name"):
                text = text.replace(own.encode(), f"@{name}@".encode())
        if new is not None:
            text = _ID.sub(new, text)
        for found in dict.fromkeys(_ID.findall(text)):
            name = f"hex{sum(mark.startswith('hex') for mark in self.marks)}"
            self.marks[name] = found.decode()
            text = text.replace(found, f"@{name}@".encode())
        # PostgreSQL's numbers go up with every refusal of MLflow's too, so that they differ.
        text = _NUMBER.sub(rb"\1@number@", text)
        return _NAME.sub(b"@random@", _TIME.sub(b"@time@", text))


def next_case() -> int:
    """A number for a case, the same on both sides."""
    return next(_case_numbers)
