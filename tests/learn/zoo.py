"""PyTorch modules of many kinds, each with an example; torch is imported when they are made."""

import functools
import warnings

NAMES = ("mlp", "lenet", "residual", "encoder", "tokens", "generator", "conv1d", "arithmetic")


@functools.cache
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch as imported
    return imported


@functools.cache
def _classes():
    nn, F = torch().nn, torch().nn.functional  # noqa: N806 - the name that everybody knows it by

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding="same", bias=False)
            self.norm = nn.BatchNorm2d(3)
            self.relu = nn.ReLU(inplace=True)
            self.drop = nn.Dropout(0.1)
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))

        def forward(self, x):
            x = self.relu(self.drop(self.norm(self.conv(x))) + x)
            x += 1
            return self.head(x).chunk(2, 1)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)
            self.first = nn.Parameter(torch().rand(1, 1, 8))
            self.words, self.places = nn.Embedding(10, 8, padding_idx=1), nn.Embedding(5, 8)
            self.register_buffer("waves", torch().rand(50, 8))

        def forward(self, rows):
            x = self.words(rows) + self.places(torch().arange(rows.shape[1])) + self.waves[: rows.shape[1]]
            x = torch().cat([self.first.expand(x.shape[0], -1, -1), x], 1).transpose(0, 1)
            mask = nn.Transformer.generate_square_subsequent_mask(6).to(x.dtype)
            y, weights = self.attention(x, x, x, attn_mask=mask, is_causal=True)
            return {"y": y[0], "weights": weights}

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.heads, self.out = (
                nn.Embedding(10, 8),
                nn.Linear(8, 24),
                nn.Linear(8, 10, bias=False),
            )
            self.out.weight = self.words.weight
            self.register_buffer("mask", torch().tril(torch().ones(6, 6)).view(1, 1, 6, 6))

        def forward(self, rows):
            x = self.words(rows)
            n, length, width = x.shape
            q, k, v = (t.view(n, length, 2, 4).transpose(1, 2) for t in self.heads(x).split(8, 2))
            scores = (q @ k.transpose(-2, -1)) * 0.5
            scores = scores.masked_fill(self.mask[:, :, :length, :length] == 0, float("-inf"))
            y = F.softmax(scores, -1) @ v + F.scaled_dot_product_attention(q, k, v, is_causal=True)
            y = y.transpose(1, 2).contiguous().view(n, length, width)
            return self.out(F.layer_norm(x + y, (8,)))

    class Arithmetic(nn.Module):
        def forward(self, x):
            x = F.leaky_relu(F.silu(x) ** 2 - x.mean(-1, keepdim=True) + 2 * x.sum(1, keepdim=True))
            low = x[:, 1:3].masked_fill(torch().eye(2, 6, dtype=torch().bool), 0.25).unsqueeze(1).squeeze(1)
            high = torch().stack(torch().unbind(F.relu6(x), 1)[:2], 1)
            both = torch().cat(
                [torch().flatten(low, 1), high.reshape(x.shape[0], -1), F.hardtanh(x, -1, 0.5)[:, -1]], 1
            )
            return (1 - both) / 3 + both * both.square() + torch().zeros(x.shape[0], 30, dtype=x.dtype)

    return Residual, Tokens, Generator, Arithmetic


def made(name, *, double=False):
    """Return a module and an example of two rows, the same in every process."""
    t = torch()
    nn = t.nn
    residual, tokens, generator, arithmetic = _classes()
    with t.random.fork_rng():
        t.manual_seed(3)
        layer = functools.partial(nn.TransformerEncoderLayer, 8, 2, 16, batch_first=True)
        module, example = {
            "mlp": lambda: (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), t.rand(2, 4)),
            "lenet": lambda: (
                nn.Sequential(
                    *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5)),
                    *(nn.Sigmoid(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 10), nn.Softmax(-1)),
                ),
                t.rand(2, 1, 28, 28),
            ),
            "residual": lambda: (residual(), t.rand(2, 3, 8, 8)),
            "encoder": lambda: (layer(activation="gelu"), t.rand(2, 5, 8)),
            "tokens": lambda: (tokens(), t.randint(0, 10, (2, 5))),
            "generator": lambda: (generator(), t.randint(0, 10, (2, 6))),
            "conv1d": lambda: (
                nn.Sequential(
                    *(nn.Conv1d(4, 8, 3, stride=2, padding=2, dilation=2, groups=2), nn.BatchNorm1d(8)),
                    *(nn.GELU(), nn.MaxPool1d(3, 2, padding=1, ceil_mode=True), nn.GELU("tanh")),
                    nn.AvgPool1d(3, 2, padding=1, count_include_pad=False),
                ),
                t.rand(2, 4, 31),
            ),
            "arithmetic": lambda: (arithmetic(), t.rand(2, 3, 6)),
        }[name]()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
        if double:
            module = module.double()
            example = example.double() if example.is_floating_point() else example
    return module, example


def outputs(module, x):
    """Return what a module computes in inference mode, as a list of arrays."""
    t = torch()
    with t.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = module.eval()(x)
    told = told.values() if isinstance(told, dict) else told if isinstance(told, tuple | list) else [told]
    return [tensor.numpy() for tensor in told]


def batch(example, rows):
    """Return another batch of the same kind."""
    t = torch()
    with t.random.fork_rng():
        t.manual_seed(rows)
        if not example.is_floating_point():
            return t.randint(0, 10, (rows, *example.shape[1:]))
        return t.randn(rows, *example.shape[1:], dtype=example.dtype)
