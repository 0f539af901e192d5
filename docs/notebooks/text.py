# %% [markdown]
# # Text
#
# Train a network to predict the next character, evaluate it, and let it generate text.

# %%
from pathlib import Path

import throughtime

rhyme = "she sells sea shells by the sea shore; the shells she sells are sea shells for sure. "
Path("rhyme.txt").write_text(rhyme * 40, encoding="utf-8")

run = throughtime.train(data="rhyme.txt", hidden_size=48, num_layers=1, steps=80, out="runs/text", progress=False)

# %% [markdown]
# A perplexity of 3 means that the network is, on average, as uncertain as if it had to choose among three equally
# likely characters.

# %%
figures = run.evaluate("rhyme.txt")
print({name: figures[name] for name in ("loss", "perplexity")})

# %%
print(run.sample("she ", length=120, temperature=0.5))

# %% [markdown]
# Does a unit track something in the text? `throughtime inspect runs/text` writes a report that shades the text by the
# value of any unit. In Python, find and plot the most interesting unit:

# %%
import torch

from throughtime import sight
from throughtime.sight.charts import lines

model = run.model()
stream = throughtime.Stream(run.path)
ids = torch.tensor(stream.task.codecs.inputs.encode(rhyme)).long()[:, None]
with torch.no_grad(), throughtime.record(model, "*.hidden") as tape:
    model(ids)
units = tape["layer0.hidden"]
best = sight.interest(units, rhyme).order[0]
lines({f"unit {best}": units[:, 0, best]}, x="character")
