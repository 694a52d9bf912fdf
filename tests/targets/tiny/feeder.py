"""The feeder: trusted. Hands out numbers, at most as many as the budget."""

import json
import random
import sys

from tiny.channel import Channel

seed, budget = int(sys.argv[1]), int(sys.argv[2])
channel, draw, given, beyond = Channel(), random.Random(seed), 0, 0
while channel.receive() is not None:
    over = given == budget
    given, beyond = (given, beyond + 1) if over else (given + 1, beyond)
    if beyond > 3:
        break
    channel.send(None if over else draw.random())
print("the feeder's own chatter")
report = {"tokens": given, "train_seconds": 0.25}
print(json.dumps(report | ({"status": "over_budget", "reason": "asked for too much"} if beyond > 3 else {})))
