# %% [markdown]
# # Notes
#
# Predict piano music as piano rolls: at every step, which of the 88 keys sound? Here the pieces are scales over a
# sustained bass note. `throughtime train` works the same way with `JSB_Chorales.mat` or a directory of MIDI files.

# %%
import numpy as np

import throughtime


def scale(length, first):
    roll = np.zeros((length, 88), np.uint8)
    roll[np.arange(length), (first + np.arange(length)) % 40 + 40] = 1
    roll[:, 20] = 1
    return roll


rng = np.random.default_rng(0)
np.savez("scales.npz", *[scale(rng.integers(8, 24), first) for first in range(40)])
run = throughtime.train(
    data="scales.npz", task="notes", hidden_size=64, dropout=0.0, recurrent_dropout=0.0, lr=0.02, steps=200,
    out="runs/scales", progress=False,
)  # fmt: skip

# %% [markdown]
# The loss is in nats per step, summed over the keys. Giving every key a probability of one half costs
# $88 \ln 2 = 61$. The baseline predicts each key by its frequency.

# %%
figures = run.result["valid"]
print("network:", figures["loss"])
print("keys by frequency:", figures["baselines"]["keys by frequency"]["loss"])

# %% [markdown]
# Sample a new piece. On the command line, `throughtime sample runs/scales --out piece.mid` writes it as a MIDI file.

# %%
piece = run.sample(length=16, seed=1)
print(type(piece))
