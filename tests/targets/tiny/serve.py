"""The server: candidate code again, in a fresh process that has only the checkpoint."""

import json
import os

from tiny import recipe
from tiny.channel import Channel

print("server sees", sorted(os.listdir()))
with open("model.json") as file:
    learnt = json.load(file)
channel = Channel()
while (x := channel.receive()) is not None:
    channel.send(recipe.predict(learnt, x))
