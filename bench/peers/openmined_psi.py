"""OpenMined's intersection, both roles in one process and no network: ``openmined_psi.py INPUT0 INPUT1``.

Elliptic-curve Diffie-Hellman over P-256; the client learns the intersection from the server's raw list.
"""

import json
import sys
import time
from pathlib import Path

import private_set_intersection.python as psi  # type: ignore[import-not-found]  # in its own environment


def main() -> None:
    """Intersect two files and print one JSON object."""
    mine, theirs = (Path(name).read_text(encoding="utf-8").split()[1:] for name in sys.argv[1:])
    cpu, began = time.process_time(), time.perf_counter()
    client = psi.client.CreateWithNewKey(True)  # it reveals the intersection, not its size alone
    server = psi.server.CreateWithNewKey(True)
    setup = server.CreateSetupMessage(1e-9, len(mine), theirs, psi.DataStructure.RAW).SerializeToString()
    request = client.CreateRequest(mine).SerializeToString()
    response = server.ProcessRequest(_parse(psi.Request, request)).SerializeToString()
    common = client.GetIntersection(_parse(psi.ServerSetup, setup), _parse(psi.Response, response))
    answer = {
        "seconds": time.perf_counter() - began,
        "core_seconds": time.process_time() - cpu,
        "matches": len(common),
        "bytes": len(setup) + len(request) + len(response),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


def _parse(kind, data: bytes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 -- messages of the peer's own
    message = kind()
    message.ParseFromString(data)
    return message


if __name__ == "__main__":
    main()
