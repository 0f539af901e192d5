# %% [markdown]
# # An effect
#
# Model a guitar amplifier from its input and output. The amplifier here is a `tanh` with a low-pass filter.

# %%
import numpy as np
import soundfile

import throughtime
from throughtime.sight.charts import lines

rate = 8000
rng = np.random.default_rng(0)
t = np.arange(4 * rate) / rate
dry = 0.5 * np.sin(2 * np.pi * (110 + 60 * t) * t) * np.exp(-(t % 0.5) * 4) + 0.01 * rng.standard_normal(len(t))
wet, low = np.zeros_like(dry), 0.0
for k, sample in enumerate(np.tanh(4 * dry)):
    low += 0.4 * (sample - low)
    wet[k] = 0.7 * low
soundfile.write("dry.wav", dry, rate)
soundfile.write("wet.wav", wet, rate)

run = throughtime.train(
    data=["dry.wav", "wet.wav"], paired=True, hidden_size=8, segment=0.2, window=400, lr=0.02, steps=200,
    out="runs/amp", progress=False,
)  # fmt: skip

# %% [markdown]
# The error-to-signal ratio (ESR) on the held-out end of the sound, and that of the dry signal, scaled to fit:

# %%
figures = run.result["valid"]
print("network:", figures["esr"])
print("dry signal:", figures["baselines"]["scaled dry signal"]["esr"])

# %% [markdown]
# The trained network runs as a stream, without PyTorch, on blocks of any size.

# %%
stream = throughtime.Stream(run.path)
ours = np.concatenate([stream.process(block) for block in np.split(dry.astype(np.float32), 500)])
part = slice(4000, 4200)
lines({"dry": dry[part], "wet": wet[part], "the network": np.ravel(ours)[part]}, x="sample")
