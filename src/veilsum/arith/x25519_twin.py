"""The same functions as `veilsum.arith.x25519`, in plain integers: slow, variable in time, easy to read.

For tests and known answers only; secrets do not belong here.

Source: RFC 7748, section 5; RFC 9380, sections 5.2, 5.3.1 and 6.7.1.
"""

import hashlib

P = 2**255 - 19
A = 486662
Z = 2  # the non-square of Elligator 2


def mul(scalar: bytes, point: bytes) -> bytes:
    """Return X25519(scalar, u): 32 bytes each, little-endian."""
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    return ladder(k, int.from_bytes(point, "little") & ~(1 << 255)).to_bytes(32, "little")


def ladder(k: int, u: int) -> int:
    """Return the u-coordinate of k·(u, …), 0 for the point at infinity; k < 2^255 is not clamped."""
    x1 = u % P
    x2, z2, x3, z3 = 1, 0, x1, 1
    for t in reversed(range(255)):
        if k >> t & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        aa, bb = (x2 + z2) ** 2 % P, (x2 - z2) ** 2 % P
        da, cb = (x3 - z3) * (x2 + z2), (x3 + z3) * (x2 - z2)
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, (aa - bb) * (aa + (A - 2) // 4 * (aa - bb)) % P
        if k >> t & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return x2 * pow(z2, P - 2, P) % P


def expand_message(message: bytes, dst: bytes, length: int) -> bytes:
    """Return expand_message_xmd with SHA-512, for at most 64 bytes."""
    dst_prime = dst + bytes([len(dst)])
    b0 = hashlib.sha512(bytes(128) + message + length.to_bytes(2, "big") + b"\0" + dst_prime).digest()
    return hashlib.sha512(b0 + b"\1" + dst_prime).digest()[:length]


def is_square(x: int) -> bool:
    """Return whether x is a square modulo p; 0 is one."""
    return pow(x, (P - 1) // 2, P) in {0, 1}


def map_to_curve(u: int) -> int:
    """Return the u-coordinate of Elligator 2's point for a field element."""
    x1 = -A * pow(1 + Z * u * u, P - 2, P) % P
    return x1 if is_square(x1**3 + A * x1**2 + x1) else (-x1 - A) % P


def encode(message: bytes, dst: bytes) -> bytes:
    """Return map_to_curve(hash_to_field(message)), cofactor not cleared: 32 bytes, little-endian."""
    element = int.from_bytes(expand_message(message, dst, 48), "big") % P
    return map_to_curve(element).to_bytes(32, "little")
