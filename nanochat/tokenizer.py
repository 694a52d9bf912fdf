"""The tokenizer: byte-level BPE, trained by rustbpe, applied by tiktoken, kept as JSON."""

import json

import numpy as np
import rustbpe
import tiktoken

BOS = "<|bos|>" # first in every document
LEAST_VOCAB_SIZE = 257 # every byte, and BOS
PIECE_CHARS = 900_000 # longer texts are encoded in pieces: tiktoken gives up on a million blanks in a row


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
        """Return (n,) uint32 token ids of each text, without BOS; text that looks like a special token is plain text."""
        return [self.encode_one(text) for text in texts]

    def encode_one(self, text):
        pieces = [text[i:i + PIECE_CHARS] for i in range(0, len(text), PIECE_CHARS)] or [""]
        ids = [self.encoding.encode_to_numpy(piece, disallowed_special=()) for piece in pieces]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)

    def decode(self, ids):
        """Return the raw bytes of these tokens; special tokens have none."""
        return b"".join(self.token_bytes[i] for i in ids if i < self.bos)

    def byte_lengths(self):
        """Return (vocab_size,) int32: how many raw bytes each token stands for, 0 for special tokens."""
        return np.array([len(raw) for raw in self.token_bytes] + [0], dtype=np.int32)
