"""The model server: loads a checkpoint with the candidate's own code and answers a judge's requests for logits.

    python -m nanochat.serve checkpoint.safetensors

The judge's first message offers a buffer of the host and perhaps one of the GPU; {logits: "host" or "device"} says which is
used. Then each request {rows, length} with rows x length int32 token ids is answered by fp32 logits (rows, length, V) in
the buffer and {done: true, shape}.
"""

import sys

import numpy as np
import torch

from nanochat import gpt
from nanochat.buffers import open_buffer, synchronise
from nanochat.common import channel, pick_device, receive, receive_with_fds, send, set_up_process


@torch.inference_mode()
def answer(model, buffer, header, payload, device):
    """Write the logits of one request to the buffer; return their shape."""
    ids = np.frombuffer(payload, dtype=np.int32).reshape(header["rows"], header["length"])
    logits = model(torch.from_numpy(ids.astype(np.int64)).to(device)) # (B, T, V)
    buffer[:logits.numel()].view(logits.shape).copy_(logits)
    synchronise(device)
    return list(logits.shape)


def serve(model, sock, device):
    """Answer requests until the judge closes the channel."""
    offer, _, (file,) = receive_with_fds(sock, 1)
    buffer, where = open_buffer(offer, file, device)
    send(sock, {"logits": where})
    while (message := receive(sock)) is not None:
        send(sock, {"done": True, "shape": answer(model, buffer, *message, device)})


def main():
    set_up_process()
    device = pick_device()
    serve(gpt.load(sys.argv[1], device), channel(), device)


if __name__ == "__main__":
    main()
