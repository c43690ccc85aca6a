"""Trainings of frameworks that log to MLflow by themselves and know of no spool: ``framework_training.py WHAT OUT``.

They write what they have logged to the file OUT, as ``{run_id: {key: [[step, value], …]}}``: it is noted where MLflow's
client takes it, before any store does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlflow
from mlflow.tracking._tracking_service.client import TrackingServiceClient

LOGGED: dict[str, dict[str, list[list[float]]]] = {}


def listen() -> None:
    """Note what MLflow's client is asked to log."""
    one, many = TrackingServiceClient.log_metric, TrackingServiceClient.log_batch

    def note(run_id: str, key: str, value: Any, step: Any) -> None:
        LOGGED.setdefault(run_id, {}).setdefault(key, []).append([int(step or 0), float(value)])

    def log_metric(self: Any, run_id: str, key: str, value: Any, *args: Any, **named: Any) -> Any:
        step = named.get("step", args[1] if len(args) > 1 else 0)
        note(run_id, key, value, step)
        return one(self, run_id, key, value, *args, **named)

    def log_batch(self: Any, run_id: str, metrics: Any = (), *args: Any, **named: Any) -> Any:
        for metric in metrics:
            note(run_id, metric.key, metric.value, metric.step)
        return many(self, run_id, metrics, *args, **named)

    TrackingServiceClient.log_metric = log_metric
    TrackingServiceClient.log_batch = log_batch


def sklearn() -> None:
    """scikit-learn's autologging: params, metrics of the training, and of a grid's children."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    mlflow.sklearn.autolog(log_models=False)
    data = [[float(n), n % 3] for n in range(40)], [n % 2 for n in range(40)]
    LogisticRegression(C=0.5).fit(*data)
    GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(*data)


def lightning() -> None:
    """PyTorch Lightning's own logger for MLflow, with data loaders that fork."""
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import MLFlowLogger

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"width": 3, "note": "ü"})
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            loss = self.layer(batch).pow(2).mean()
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    loader = torch.utils.data.DataLoader(torch.randn(64, 3), batch_size=4, num_workers=2)
    logger = MLFlowLogger(experiment_name="lightning", tracking_uri=mlflow.get_tracking_uri())
    trainer = pl.Trainer(
        max_epochs=2, logger=logger, log_every_n_steps=1, accelerator="cpu", enable_progress_bar=False
    )
    trainer.fit(Module(), loader)


def transformers() -> None:
    """transformers' Trainer, whose MLflow callback is there because MLflow is."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    rows = [{"input_ids": torch.tensor([n % 20, 3]), "labels": torch.tensor(n % 2)} for n in range(32)]
    arguments = TrainingArguments(
        output_dir="out",
        num_train_epochs=2,
        per_device_train_batch_size=4,
        logging_steps=1,
        report_to=["mlflow"],
    )
    Trainer(model=BertForSequenceClassification(config), args=arguments, train_dataset=rows).train()


if __name__ == "__main__":
    listen()
    {one.__name__: one for one in (sklearn, lightning, transformers)}[sys.argv[1]]()
    Path(sys.argv[2]).write_text(json.dumps(LOGGED))
