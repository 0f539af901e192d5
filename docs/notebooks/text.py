# %% [markdown]
# # Text
#
# Train a network to predict the next character, look at what it costs, and let it write.

# %%
from pathlib import Path

import throughtime

rhyme = "she sells sea shells by the sea shore; the shells she sells are sea shells for sure. "
Path("rhyme.txt").write_text(rhyme * 40, encoding="utf-8")

run = throughtime.train(data="rhyme.txt", hidden_size=48, num_layers=1, steps=80, out="runs/text", progress=False)

# %% [markdown]
# The perplexity is the number of characters among which the network is, on average, undecided. Beside it stands the
# baseline, which knows how frequent each character is and nothing else.

# %%
figures = run.evaluate("rhyme.txt")
print({name: figures[name] for name in ("loss", "perplexity")})

# %%
print(run.sample("she ", length=120, temperature=0.5))

# %% [markdown]
# Which unit follows the text? `throughtime inspect runs/text` writes a page that shades it by any unit. In Python,
# record the unit that tells most about the place in the text:

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
