"""Lines of JSON over the socket in EVOLVE_CHANNEL."""

import json
import os
import socket


class Channel:
    """One end of the channel; receive() returns None when the other end has closed."""

    def __init__(self):
        self.file = socket.socket(fileno=int(os.environ["EVOLVE_CHANNEL"])).makefile("rw")

    def send(self, value):
        self.file.write(json.dumps(value) + "\n")
        self.file.flush()

    def receive(self):
        line = self.file.readline()
        return json.loads(line) if line else None
