"""The tokenizer: byte-level BPE, trained by rustbpe, applied by tiktoken, kept as JSON."""

import json

import numpy as np
import rustbpe
import tiktoken

BOS = "<|bos|>" # first in every document


class Tokenizer:
    """Token i < len(token_bytes) stands for these raw bytes; the special tokens follow."""

    def __init__(self, pattern, token_bytes):
        self.pattern, self.token_bytes = pattern, token_bytes
        self.bos = len(token_bytes)
        self.vocab_size = len(token_bytes) + 1
        ranks = {raw: i for i, raw in enumerate(token_bytes)}
        self.encoding = tiktoken.Encoding("nanochat", pat_str=pattern, mergeable_ranks=ranks, special_tokens={BOS: self.bos})

    @classmethod
    def train(cls, texts, vocab_size):
        """Train on an iterator of texts; vocab_size counts the special tokens."""
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(iter(texts), vocab_size - 1)
        ranked = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
        return cls(trainer.get_pattern(), [bytes(raw) for raw, _ in ranked])

    @classmethod
    def load(cls, path):
        fields = json.loads(path.read_text())
        return cls(fields["pattern"], [bytes.fromhex(raw) for raw in fields["token_bytes"]])

    def save(self, path):
        path.write_text(json.dumps({"pattern": self.pattern, "token_bytes": [raw.hex() for raw in self.token_bytes]}))

    def encode(self, texts):
        """Return a list of token ids for each text, without BOS; text that looks like a special token is plain text."""
        return self.encoding.encode_ordinary_batch(texts)

    def decode(self, ids):
        """Return the raw bytes of these tokens; special tokens have none."""
        return b"".join(self.token_bytes[i] for i in ids if i < self.bos)

    def byte_lengths(self):
        """Return (vocab_size,) int32: how many raw bytes each token stands for, 0 for special tokens."""
        return np.array([len(raw) for raw in self.token_bytes] + [0], dtype=np.int32)
