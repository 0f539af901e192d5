# %% [markdown]
# # Forecasting
#
# Forecast the next day of an hourly time series.

# %%
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

import throughtime

rng = np.random.default_rng(0)
hours = np.arange(24 * 60)
load = 50 + 12 * np.sin(2 * np.pi * hours / 24) + 5 * np.sin(2 * np.pi * hours / 168) + rng.standard_normal(len(hours))
start = datetime(2026, 1, 1)
rows = [f"{start + timedelta(hours=int(h))},{value:.3f}" for h, value in zip(hours, load, strict=True)]
Path("load.csv").write_text("time,load\n" + "\n".join(rows) + "\n", encoding="utf-8")

run = throughtime.train(
    data="load.csv", target="load", horizon=24, context=96, segment=24, hidden_size=16, lr=0.02, steps=150,
    out="runs/load", progress=False,
)  # fmt: skip

# %% [markdown]
# The result compares the network with three baselines: the last value, the value a week earlier, and a linear
# regression. On a series as regular as this one, the regression is hard to beat. So always compare.

# %%
print(run.result["test"])

# %% [markdown]
# The forecast for the day after the end of the table, with an 80% interval:

# %%
prediction = throughtime.predict(run, "load.csv")
print(prediction.columns)
table = [dict(zip(prediction.columns, row, strict=True)) for row in prediction.rows]
print(table[0])
