"""What training jobs log: loss curves, accuracies, schedules, gradient norms, machine statistics.

Everything is drawn from a seeded generator, so every machine and every server gets the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Curve = Callable[[np.random.Generator, NDArray[np.int64]], Values]


def loss(rng: np.random.Generator, steps: NDArray[np.int64]) -> Values:
    """Exponential decay to a floor with noise, rounded to float32 as frameworks hand it out."""
    tau, floor, start = rng.uniform(200, 5000), rng.uniform(0.01, 0.6), rng.uniform(1.5, 9.0)
    curve = floor + start * np.exp(-steps / tau) + rng.normal(0, 0.02, len(steps)) * (floor + 0.2)
    return np.abs(curve).astype(np.float32).astype(np.float64)


def accuracy(rng: np.random.Generator, steps: NDArray[np.int64]) -> Values:
    """A ratio of two counts, as an evaluation over a fixed number of samples gives."""
    samples = int(rng.integers(500, 20_000))
    share = rng.uniform(0.7, 0.99) * (1 - np.exp(-(steps + 50) / rng.uniform(300, 3000)))
    return rng.binomial(samples, share) / samples


def schedule(rng: np.random.Generator, steps: NDArray[np.int64]) -> Values:
    """A learning rate: linear warm-up, then half a cosine; exact and without noise."""
    peak, warmup, total = 10 ** rng.uniform(-5, -2), rng.integers(50, 500), 50_000
    progress = np.clip((steps - warmup) / (total - warmup), 0, 1)
    return np.where(steps < warmup, peak * (steps + 1) / warmup, peak * 0.5 * (1 + np.cos(np.pi * progress)))


def gradient_norm(rng: np.random.Generator, steps: NDArray[np.int64]) -> Values:
    """Log-normal with rare spikes, float32."""
    norm = rng.lognormal(rng.uniform(-2, 1), 0.3, len(steps))
    return np.where(rng.random(len(steps)) < 0.002, norm * 50, norm).astype(np.float32).astype(np.float64)


def utilisation(rng: np.random.Generator, steps: NDArray[np.int64]) -> Values:
    """A percentage with one decimal, as system metrics report it."""
    return np.clip(rng.normal(rng.uniform(40, 95), 4, len(steps)), 0, 100).round(1)


def counter(rng: np.random.Generator, steps: NDArray[np.int64]) -> Values:
    """A whole number that grows: samples seen."""
    return (steps + 1).astype(np.float64) * int(rng.choice([16, 32, 64, 128, 256]))


_NAMED: list[tuple[str, Curve]] = [
    ("train/loss", loss),
    ("train/accuracy", accuracy),
    ("val/loss", loss),
    ("val/accuracy", accuracy),
    ("val/f1", accuracy),
    ("lr-AdamW/pg1", schedule),
    ("lr-AdamW/pg2", schedule),
    ("train/grad_norm", gradient_norm),
    ("train/samples_seen", counter),
    ("system/cpu_utilization_percentage", utilisation),
    ("system/gpu_0_utilization_percentage", utilisation),
    ("system/gpu_0_memory_usage_percentage", utilisation),
]
_PER_LAYER: list[tuple[str, Curve]] = [
    ("layers/{:02d}/grad_norm", gradient_norm),
    ("layers/{:02d}/activation_mean", loss),
]


def catalogue(count: int, *, key_length: int | None = None) -> list[tuple[str, Curve]]:
    """``count`` distinct keys with their curves; with ``key_length``, each padded to that length."""
    keys = _NAMED[:count]
    layer = 0
    while len(keys) < count:
        keys = keys + [(name.format(layer), curve) for name, curve in _PER_LAYER]
        layer += 1
    keys = keys[:count]
    if key_length is None:
        return keys
    # The padding goes in front of the name, so that long keys share a prefix, as generated names do.
    return [("module/" + "x" * (key_length - len(name) - 8) + "/" + name, curve) for name, curve in keys]
