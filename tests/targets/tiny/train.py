"""The trainer: candidate code."""

import json
import sys

from tiny import recipe
from tiny.channel import Channel


def batches(channel, events):
    step = 0
    while True:
        channel.send("next")
        batch = channel.receive()
        if batch is None:
            return
        step += 1
        events.write(json.dumps({"step": step, "tokens": step, "seconds": 0.1, "train_loss": 1 / step}) + "\n")
        yield batch


with open("events.jsonl", "w", buffering=1) as events:
    learnt = recipe.train(batches(Channel(), events))
    with open("model.json", "w") as file:
        json.dump(learnt, file)
    events.write(json.dumps({"checkpoint": "model.json", "n_params": 999}) + "\n")
print("trained with seed", sys.argv[1])
