"""A protocol that is only a docstring.

| step | who | message |
|---|---|---|
| 1 | server → client | `PublicKey(n, e)` |
| 2 | client → server | `BlindedIds(H(x)·r^e; in batches)`; `Count(how many)` |
| 3 | server | signs each |
| 4 | server → client, observer | `SignedIds(…)` |
| 5 | client and observer -> server | `Done()` |

Some text with a | in it, and `Code()`.
"""
