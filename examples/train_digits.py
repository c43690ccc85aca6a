"""Train a classifier of handwritten digits, epoch by epoch, and log everything to an MLflow tracking server.

    runstream serve                       # in another terminal
    python examples/train_digits.py       # needs mlflow and scikit-learn, and nothing of Runstream

A linear classifier (scikit-learn's SGDClassifier) sees one small batch of images per step; every step logs 24 metrics:
loss, accuracy and gradient sizes, and the recall of each digit on both sets. Afterwards a second model is trained with
MLflow's autologging, and is stored with the run. The data set ships with scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import mlflow
import numpy as np
from mlflow.models import infer_signature
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DIGITS = np.arange(10)


def main() -> None:
    """Parse the flags, train twice, and say how to look at it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracking-uri", default="http://127.0.0.1:5000", help="default: %(default)s")
    parser.add_argument("--experiment", default="digits", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    mlflow.set_tracking_uri(options.tracking_uri)
    experiment = mlflow.set_experiment(options.experiment)
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(
        images / 16.0, labels, test_size=0.25, random_state=options.seed, stratify=labels
    )

    run_id = train_step_by_step(*split, options)
    autologged_id, model_uri = train_with_autolog(*split)

    page = f"{options.tracking_uri}/#/experiments/{experiment.experiment_id}/runs"
    print(f"\nlook at the curves:   {page}/{run_id}/model-metrics")
    print(f"the autologged run:   {page}/{autologged_id}")
    print("answer requests with the model:")
    print(
        f"  MLFLOW_TRACKING_URI={options.tracking_uri} mlflow models serve -m {model_uri} --env-manager local -p 5050"
    )
    print("  curl http://127.0.0.1:5050/invocations -H 'Content-Type: application/json' \\")
    print('    -d "{\\"inputs\\": [$(python -c \'print([0.5] * 64)\')]}"')
    print(f"run_id={run_id} autologged_run_id={autologged_id} model_uri={model_uri}")


def train_step_by_step(
    train_images: np.ndarray,
    test_images: np.ndarray,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    options: argparse.Namespace,
) -> str:
    """Log every step of a training written by hand; returns the run's id."""
    model = SGDClassifier(
        loss="log_loss", learning_rate="invscaling", eta0=0.5, power_t=0.3, random_state=options.seed
    )
    batches = endless_batches(len(train_images), options.batch_size, np.random.default_rng(options.seed))
    logging_s = 0.0
    began = time.perf_counter()
    with mlflow.start_run(run_name="sgd-by-hand") as run:
        mlflow.log_params({**model.get_params(), "steps": options.steps, "batch_size": options.batch_size})
        dataset = mlflow.data.from_numpy(train_images, targets=train_labels, name="digits-train")
        mlflow.log_input(dataset, context="training")
        before = np.zeros((10, 64))
        for step in range(options.steps):
            chosen = next(batches)
            model.partial_fit(train_images[chosen], train_labels[chosen], classes=DIGITS)
            metrics = {
                **scores("train", model, train_images[chosen], train_labels[chosen]),
                **scores("test", model, test_images, test_labels),
                **{
                    f"recall/{digit}": recall
                    for digit, recall in enumerate(
                        recall_score(test_labels, model.predict(test_images), labels=DIGITS, average=None)
                    )
                },
                "weights/norm": float(np.linalg.norm(model.coef_)),
                "weights/largest": float(np.abs(model.coef_).max()),
                "update/norm": float(np.linalg.norm(model.coef_ - before)),
                "update/largest": float(np.abs(model.coef_ - before).max()),
            }
            before = model.coef_.copy()
            asked = time.perf_counter()
            mlflow.log_metrics(metrics, step=step)
            logging_s += time.perf_counter() - asked
            if step % max(1, options.steps // 5) == 0:
                print(
                    f"step {step:5}  loss {metrics['test/loss']:.4f}  accuracy {metrics['test/accuracy']:.4f}"
                )
    seconds = time.perf_counter() - began
    print(
        f"{options.steps} steps with {len(metrics)} metrics each, {options.steps * len(metrics):,} points, "
        f"accuracy {metrics['test/accuracy']:.4f}"
    )
    print(
        f"{seconds:.1f} s, of which logging {logging_s:.1f} s: {1000 * logging_s / options.steps:.2f} ms a step, "
        f"{options.steps * len(metrics) / logging_s:,.0f} points/s"
    )
    run_id: str = run.info.run_id
    return run_id


def train_with_autolog(
    train_images: np.ndarray, test_images: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray
) -> tuple[str, str]:
    """Let MLflow log a fit by itself, then store the model; returns the run's id and the model's address."""
    mlflow.sklearn.autolog(log_models=False, silent=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with mlflow.start_run(run_name="logistic-autologged") as run:
        model.fit(train_images, train_labels)
        accuracy = model.score(test_images, test_labels)
        stored = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(test_images, test_labels),
            pip_requirements=["scikit-learn", "numpy"],
            serialization_format="cloudpickle",
        )
    mlflow.sklearn.autolog(disable=True)
    logged = mlflow.get_run(run.info.run_id).data
    print(
        f"autologged {len(logged.params)} params and {len(logged.metrics)} metrics, accuracy {accuracy:.4f}"
    )
    return run.info.run_id, stored.model_uri


def scores(prefix: str, model: SGDClassifier, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How well the model does on these images."""
    probabilities = model.predict_proba(images)
    guesses = DIGITS[probabilities.argmax(axis=1)]
    return {
        f"{prefix}/loss": float(log_loss(labels, probabilities, labels=DIGITS)),
        f"{prefix}/accuracy": float(accuracy_score(labels, guesses)),
        f"{prefix}/f1": float(f1_score(labels, guesses, average="macro", labels=DIGITS, zero_division=0)),
        f"{prefix}/confidence": float(probabilities.max(axis=1).mean()),
        f"{prefix}/margin": float(np.diff(np.sort(probabilities, axis=1)[:, -2:], axis=1).mean()),
    }


def endless_batches(count: int, size: int, chance: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of a batch, again and again: every epoch in a new order."""
    while True:
        order = chance.permutation(count)
        yield from np.array_split(order, max(1, count // size))


if __name__ == "__main__":
    main()
