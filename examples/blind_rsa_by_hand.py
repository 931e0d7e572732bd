"""Blind RSA by hand: the cryptography of the mode ``hidden_one`` without its network.

The client learns which of its ids the signer has too; the signer learns only how many ids the client has.
In the real protocol, ``veilsum/protocols/hidden_psi.py``, the arrays travel over TLS in batches, the client
shuffles its ids first, and signatures are counted.

    python examples/blind_rsa_by_hand.py 20000
"""

import secrets
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from veilsum.crypto import blind_rsa

BITS = 2048


def encode(ids: Sequence[str]) -> NDArray[np.uint8]:
    """Encode ids as numbers below the modulus; shape (n, 256): the same id gives the same number."""
    forms = [text.encode() for text in ids]
    offsets = np.cumsum([0, *map(len, forms)]).astype(np.int64)
    return blind_rsa.encode(blind_rsa.hash_ids(b"".join(forms), offsets), BITS)


def align(signer: Sequence[str], client: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
    """Return what the signer has then, a random id for each of its ids; and the client's weights of these."""
    width = blind_rsa.tag_width(len(signer), len(client))

    # 1  signer -> client: a public key, and the proof that its power is a permutation
    key = blind_rsa.gen_key(BITS)
    proof = blind_rsa.prove(key, b"this run")
    blind_rsa.check_key(key.public, proof, b"this run", bits=BITS)

    # 2  client -> signer: r^e·H(v) for each of its ids v, under a blind r of its own
    blinds = blind_rsa.draw_blinds(secrets.token_bytes(32), 0, len(client), key.public)
    blinded = blind_rsa.blind(key.public, encode(client), blinds)

    # 3  signer -> client: the same to the power d; and tags of its own signatures, sorted
    signed = blind_rsa.sign(key, blinded.values, secrets.token_bytes(32))
    own = blind_rsa.sign(key, encode(signer), secrets.token_bytes(32))
    tags = [bytes(tag) for tag in blind_rsa.tags(key.public, own, width)]
    order = sorted(range(len(signer)), key=tags.__getitem__)

    # 4  the client checks every signature, takes the blinds away, and compares tags
    signatures = blind_rsa.unblind(key.public, blinded, signed)
    mine = {bytes(tag) for tag in blind_rsa.tags(key.public, signatures, width)}
    weights = np.array([tags[row] in mine for row in order])

    # 5  client -> signer: a random id for every tag, drawn without a look at the weights
    random_ids = [secrets.token_hex(16) for _ in order]

    # 6  the signer knows which row each tag is; to it they all look alike
    places = [f"{random_id}: {signer[row]}" for random_id, row in zip(random_ids, order, strict=True)]
    return places, weights


def main() -> None:
    """Align two lists of which half is shared."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    signer = [f"user-{number}" for number in range(size)]
    client = [f"user-{number}" for number in range(size // 2, size // 2 + size)]
    places, weights = align(signer, client)
    matching = {line.split(": ")[1] for line, weight in zip(places, weights, strict=True) if weight}
    assert matching == set(signer) & set(client)
    print("the signer has, in an order that says nothing about its rows:", *places[:3], "…", sep="\n  ")
    print("the client has the same random ids, and of each whether it matches:")
    print("  weights", *weights[:3].astype(int), "…", f"{int(weights.sum())} of {len(weights)} are 1")


if __name__ == "__main__":
    main()
