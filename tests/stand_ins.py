"""A processor for models without a vocabulary: "w12" is token 12, any other word some token of its own."""

import torch

BOS = 1


def token(word):
    return int(word[1:]) if word[:1] == "w" and word[1:].isdigit() else 20 + sum(map(ord, word)) % 80


class Tokenizer:
    bos_token_id = BOS
    unk_token_id = None

    def encode(self, text, add_special_tokens=False):
        return [token(word) for word in text.split()]

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(f"w{int(one)}" for one in ids)

    def batch_decode(self, rows, skip_special_tokens=True):
        return [self.decode([one for one in row if one != 0]) for row in rows]

    def __call__(self, texts, padding=True, return_tensors="pt"):
        rows = [self.encode(text) for text in texts]
        longest = max(map(len, rows))
        read = {
            "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        }
        return Read(read)


class Read(dict):
    def to(self, device):
        return self


class Processor:
    def __init__(self):
        self.tokenizer = Tokenizer()
        self.qformer_tokenizer = Tokenizer()
