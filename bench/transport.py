"""Measure 1 KiB round trips and 64 MiB messages over mutual TLS beside gRPC, and lanes beside bare TCP.

Every contender is two processes on loopback that stay up; repetitions take turns (A B C A B C …), and
what is reported is the median over the repetitions, each of which is a median of its rounds.
"""

import argparse
import contextlib
import datetime as dt
import importlib.util
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import environments
from echo import DRIVER, SERVER
from processes import Pair, ProcessFailed
from rows import Row, against, emit, say, within
from veilsum.node.certificates import make_certificate
from veilsum.parties import PartyId

KIB, MIB = 1024, 1024 * 1024
SMALL, LARGE = KIB, 64 * MIB
_TLS = "mutual TLS at both; medians of interleaved repetitions"

Key = tuple[str, str, int]  # contender, way, size
Results = dict[Key, float]  # seconds of a round


def measure(pairs: dict[str, Pair], plan: list[tuple[str, str, int, int]], repetitions: int) -> Results:
    """Return the median seconds of every (contender, way, size, rounds) of the plan."""
    found: dict[Key, list[float]] = {}
    for repetition in range(repetitions + 1):
        say(f"repetition {repetition} of {repetitions}" + (" (warming up)" if repetition == 0 else ""))
        for name, way, size, rounds in plan:
            if name not in pairs:
                continue
            few = max(1, rounds // 4) if repetition == 0 else rounds
            seconds = pairs[name].seconds(way, size, few)
            if repetition:
                found.setdefault((name, way, size), []).append(seconds)
    return {key: statistics.median(values) for key, values in found.items()}


def report(results: Results, problem: str) -> list[Row]:
    """Turn the results into rows."""
    trip = _reader(results, SMALL, lambda seconds: seconds * 1e6)
    rate = _reader(results, LARGE, lambda seconds: LARGE / MIB / seconds)
    best = min((t for way in ("unary", "stream") if (t := trip("grpc", way)) is not None), default=None)
    unary, note = rate("grpc", "unary"), problem or _TLS
    grpc = "grpcio aio, best of unary and stream"
    rows = []
    for name, suffix in (("ours", ""), ("uvloop", ", uvloop")):
        for way, what in (("link", "Link"), ("peer", "Peer")):
            if trip(name, way) is None:
                continue
            goal = 2.0 if name == "ours" else None
            title = f"1 KiB round trip, p50, {what}{suffix}"
            rows += [
                against(title, "µs", trip(name, way), best, grpc, goal=goal, note=note),
                against(
                    f"64 MiB message, {what}{suffix}",
                    "MiB/s",
                    rate(name, way),
                    unary,
                    "grpcio aio unary",
                    goal=goal,
                    note=note,
                ),
            ]
    stream = rate("grpc", "stream")
    rows.append(
        against("64 MiB message, Peer", "MiB/s", rate("ours", "peer"), stream, "grpcio aio stream", note=note)
    )
    lane, tcp = trip("ours", "lane"), trip("tcp", "tcp")
    rows.append(within("1 KiB round, p50, Lane", "µs", lane, tcp, "blocking TCP without TLS", margin=40))
    return rows


def _reader(
    results: Results, size: int, convert: Callable[[float], float]
) -> Callable[[str, str], float | None]:
    def read(name: str, way: str) -> float | None:
        seconds = results.get((name, way, size))
        return None if seconds is None else convert(seconds)

    return read


@contextlib.contextmanager
def contenders(folder: Path, grpc: environments.Environment) -> Iterator[tuple[dict[str, Pair], str]]:
    """Start every contender; yield those that stand, and why gRPC does not."""
    here = Path(__file__).parent
    mine = dict(os.environ)
    shared = grpc.variables
    with contextlib.ExitStack() as stack:
        pairs = {
            "ours": stack.enter_context(Pair([sys.executable, str(here / "echo.py"), str(folder)], mine))
        }
        if importlib.util.find_spec("uvloop"):
            program = [sys.executable, str(here / "echo.py"), str(folder)]
            pairs["uvloop"] = stack.enter_context(Pair(program, mine, ["uvloop"]))
        tcp = [sys.executable, str(environments.PROGRAMS / "tcp_exchange.py")]
        pairs["tcp"] = stack.enter_context(Pair(tcp, shared))
        problem = grpc.problem
        if grpc.python is not None:
            program = [str(grpc.python), str(environments.PROGRAMS / "grpc_echo.py"), str(folder)]
            try:
                pairs["grpc"] = stack.enter_context(Pair(program, shared))
            except ProcessFailed as error:
                problem = str(error)
        yield pairs, problem


def make_certificates(folder: Path) -> None:
    """Make the identities: veilsum's own Ed25519 kind, and P-256 for gRPC, whose TLS refuses Ed25519."""
    now = dt.datetime.now(dt.UTC)
    for party in (SERVER, DRIVER):
        make_identity(folder, party)
    other = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(other.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bench")]), critical=False)
    )
    (folder / "grpc.key").write_bytes(_pem(other))
    (folder / "grpc.crt").write_bytes(builder.sign(other, hashes.SHA256()).public_bytes(Encoding.PEM))


def make_identity(folder: Path, party: PartyId) -> None:
    """Make a party's key and certificate: ``PARTY.der`` for the others, ``PARTY.pem`` for itself."""
    key = Ed25519PrivateKey.generate()
    certificate = make_certificate(key, party, dt.datetime.now(dt.UTC))
    (folder / f"{party}.der").write_bytes(certificate)
    pem = x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)
    (folder / f"{party}.pem").write_bytes(_pem(key) + pem)


def _pem(key: object) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined]  # two key types
    return pem


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: well under a minute")
    arguments = parser.parse_args()
    repetitions, small, large = (5, 600, 3) if arguments.quick else (15, 2000, 5)
    plan = [
        (name, way, size, rounds)
        for size, rounds in ((SMALL, small), (LARGE, large))
        for name, ways in (("ours", "link peer"), ("uvloop", "link peer"), ("grpc", "unary stream"))
        for way in ways.split()
    ]
    plan += [("ours", "lane", SMALL, small), ("tcp", "tcp", SMALL, small)]
    grpc = environments.prepare("grpc")
    with tempfile.TemporaryDirectory() as temporary:
        make_certificates(Path(temporary))
        with contenders(Path(temporary), grpc) as (pairs, problem):
            results = measure(pairs, plan, repetitions)
    emit("transport", report(results, problem), grpc.versions)


if __name__ == "__main__":
    main()
