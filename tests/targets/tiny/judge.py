"""The judge: trusted. Asks the server, knows the answers."""

import json
import sys

from tiny.channel import Channel

channel, errors = Channel(), []
for x in range(1, int(sys.argv[1]) + 1):
    channel.send(x)
    answer = channel.receive()
    if answer == "peek":
        print(json.dumps({"status": "cheated", "reason": "the server asked for targets"}))
        sys.exit()
    if answer is None:
        print(json.dumps({"status": "crashed", "reason": "the server broke off"}))
        sys.exit()
    errors.append(abs(answer - x))
print(json.dumps({"loss": sum(errors) / len(errors), "n_params": 1, "flops": 2.0}))
