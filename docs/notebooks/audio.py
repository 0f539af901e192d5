# %% [markdown]
# # The next sample of sound
#
# Predict a tone sample by sample, like WaveNet: each sample is one of 256 levels, and the network predicts the next
# level with a softmax.

# %%
import numpy as np
import soundfile

import throughtime
from throughtime.sight.charts import lines

rate = 4000
t = np.arange(3 * rate) / rate
tone = 0.6 * np.sin(2 * np.pi * 220 * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
soundfile.write("tone.wav", tone, rate)

run = throughtime.train(data="tone.wav", hidden_size=24, window=100, steps=60, out="runs/tone", progress=False)

# %% [markdown]
# Compare the network's bits per sample with those of the baselines on the held-out end of the sound. 60 steps only show
# that the code runs: all baselines are far ahead of the network. So always compare.

# %%
figures = run.result["valid"]
print("network:", figures["bits_per_sample"])
for name, baseline in figures["baselines"].items():
    print(f"{name}:", baseline["bits_per_sample"])

# %%
sound = np.concatenate(list(throughtime.sample(run, length=400, seed=1)))
lines({"sampled": sound[:, 0]}, x="sample")
