# %% [markdown]
# # Labels for sequences
#
# Classify made-up words of two languages: one has many vowels, the other many consonants. `classify` needs a
# directory with one file per label and one sequence per line.

# %%
import random
from pathlib import Path

import throughtime

random.seed(0)
Path("words").mkdir(exist_ok=True)
for language, letters in {"Avonian": "aeioulmnr", "Kratish": "krtschpae"}.items():
    words = ["".join(random.choices(letters, k=random.randint(4, 9))) for _ in range(300)]
    Path("words", f"{language}.txt").write_text("\n".join(words), encoding="utf-8")

run = throughtime.train(
    data="words", task="classify", hidden_size=16, steps=120, test_share=0.2, out="runs/words", progress=False
)

# %% [markdown]
# This is the accuracy on words that training never saw, and that of always guessing the same label:

# %%
print(run.result["test"])

# %%
for row in throughtime.predict(run, "words/Kratish.txt").rows:
    print(row)
    break

# %% [markdown]
# Which letters decided? The gradient of the label's log-probability with respect to each letter shows how much it
# mattered.

# %%
import torch

from throughtime import sight
from throughtime.sight.charts import bars

word = "kratolia"
stream = throughtime.Stream(run.path)
ids = torch.tensor(stream.task.codecs.inputs.encode(word)).long()[:, None]
found = sight.connectivity(run.model(), ids)
shares = found.past(len(word) - 1)
bars({f"{k}: {letter}": float(share) for k, (letter, share) in enumerate(zip(word, shares, strict=True))})
