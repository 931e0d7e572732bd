"""One party of SPU's ECDH intersection over brpc: ``spu_psi.py RANK ADDRESS0,ADDRESS1 INPUT OUTPUT``.

Curve25519, rank 0 receives, no TLS. Clocks run around the call alone: neither imports nor the connection
count.
"""

import json
import resource
import sys
import time

from spu import libspu, psi  # type: ignore[import-not-found]  # it is in its own environment only


def main() -> None:
    """Play one rank and print one JSON object."""
    rank, addresses, source, result = sys.argv[1:]
    desc = libspu.link.Desc()
    desc.recv_timeout_ms = 600_000
    for number, address in enumerate(addresses.split(",")):
        desc.add_party(f"party{number}", address)
    link = libspu.link.create_brpc(desc, int(rank))
    config = psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(
            protocol=psi.PsiProtocol.PROTOCOL_ECDH,
            receiver_rank=0,
            broadcast_result=False,
            ecdh_params=psi.EcdhParams(curve=psi.EllipticCurveType.CURVE_25519),
        ),
        input_params=psi.InputParams(path=source, selected_keys=["id"], keys_unique=True),
        output_params=psi.OutputParams(path=result),
    )
    cpu, began = _cpu(), time.perf_counter()
    report = psi.psi_execute(config, link)
    answer = {"seconds": time.perf_counter() - began, "core_seconds": _cpu() - cpu}
    link.stop_link()
    sys.stdout.write(json.dumps(answer | {"matches": report.intersection_count}) + "\n")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
