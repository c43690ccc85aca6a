"""Read metrics of many runs in one call, as a notebook would: each `# %%` block is a cell.

Run `examples/train_digits.py` first, a few times with different --seed, so that there is something to look at.
"""

# %% One call for all runs of an experiment and all keys that match: a pandas frame with a row per point.
import runstream

server = runstream.connect("http://127.0.0.1:5000")
points = server.get_metrics(experiment="digits", keys=["test/*"], max_points=500)
print(points.head(), f"\n{len(points):,} points of {points['run_id'].nunique()} runs\n")

# %% A row per run and step, a column per key.
print(points.wide().tail(), "\n")

# %% One line about each series, worked out on the server.
print(server.summary(experiment="digits", keys=["test/accuracy", "test/loss"]), "\n")

# %% A band over the runs: mean and spread at every hundredth step.
print(
    server.aggregate(experiment="digits", keys="test/loss", stats=["mean", "min", "max"], every=100).tail(),
    "\n",
)

# %% Curves (needs matplotlib): one picture per key, one line per run.
try:
    points.plot().savefig("digits.png")
    print("curves are in digits.png")
except ImportError as error:
    print(error)
