# %% [markdown]
# # Notes
#
# Learn piano music as piano rolls: at every step, which of the 88 keys sound? Here the pieces are scales over a
# sustained bass note. `throughtime train JSB_Chorales.mat` or a directory of MIDI files works the same way.

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
    data="scales.npz", task="notes", hidden_size=32, num_layers=1, steps=150, batch=8, out="runs/scales", progress=False
)

# %% [markdown]
# The loss is in nats per step, summed over the keys. Pure guessing gives $88 \ln 2 = 61$.

# %%
print(run.result["valid"]["loss"])

# %% [markdown]
# Sample a new piece. On the command line, `throughtime sample runs/scales --out piece.mid` writes it as a MIDI file.

# %%
piece = run.sample(length=16, seed=1)
print(type(piece))
