"""Ports of this machine that no program listens on."""

import socket


def free_ports(number: int) -> list[int]:
    """Return `number` different ports of 127.0.0.1 that were free a moment ago.

    For programs that must know their ports before they start, as Compose must. Another program can take such a port
    before you do.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
