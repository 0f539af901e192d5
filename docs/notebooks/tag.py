# %% [markdown]
# # A label for every step
#
# Find the names of persons in sentences. The file has a token and its tag on each line, and a blank line between
# sentences. `B-` starts a name, `I-` continues it, and `O` is everything else.

# %%
import random
from pathlib import Path

import throughtime

random.seed(0)
first, last = ["Ada", "Alan", "Grace", "Kurt"], ["Lovelace", "Turing", "Hopper", "Goedel"]
verbs, things = ["built", "found", "wrote", "lost"], ["a machine", "the proof", "a letter", "the key"]


def sentence():
    name = [(random.choice(first), "B-PER"), (random.choice(last), "I-PER")][: random.randint(1, 2)]
    rest = [(word, "O") for word in (random.choice(verbs), *random.choice(things).split())]
    return "\n".join(f"{token}\t{tag}" for token, tag in name + rest)


Path("people.bio").write_text("\n\n".join(sentence() for _ in range(300)) + "\n", encoding="utf-8")
run = throughtime.train(
    data="people.bio", task="tag", hidden_size=16, steps=150, dropout=0.0, out="runs/people", progress=False
)

# %% [markdown]
# The network is bidirectional. `run.result` has the accuracy and the F1 score of whole spans. Now tag a new sentence:

# %%
Path("new.bio").write_text("Kurt\nTuring\nfound\nthe\nkey\n", encoding="utf-8")
for row in throughtime.predict(run, "new.bio").rows:
    print(row)
