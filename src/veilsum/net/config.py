"""Every number of the wire in one place."""

import msgspec

KIB = 1024
MIB = 1024 * KIB


class NetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and times; a party chooses its own.

    Attributes:
        heartbeat: seconds between signs of life.
        silence: seconds without any byte, or of failed redialling, after which a peer is lost.
        redial_pause: seconds between two attempts to reach a peer.
        connect_timeout: seconds to wait for a peer that has not come yet.
        handshake_timeout: seconds for TLS and the first frame.
        waiting_after: seconds of waiting for a live peer before (and between) events that say so.
        window: bytes of one message type under way to a peer that has not consumed them.
        write_chunk: bytes handed to the transport at once.
        pending_handshakes: connections that may be between TCP and TLS at a listener.
    """

    heartbeat: float = 1.0
    silence: float = 4.0
    redial_pause: float = 0.1
    connect_timeout: float = 120.0
    handshake_timeout: float = 5.0
    waiting_after: float = 5.0
    window: int = 4 * MIB
    write_chunk: int = 256 * KIB
    pending_handshakes: int = 32
