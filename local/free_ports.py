"""Ports of this machine that no program listens on."""

import socket

import psutil


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


def free_port(port: int = 0) -> int:
    """Return `port` if no program listens on it, or any such port for 0. Raises OSError if the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])


def port_owner(port: int) -> str:
    """Name the process that listens on a port, or "another program" if the system does not tell an ordinary user."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {process.pid} ({' '.join(process.cmdline())[:60] or process.name()})"
    except psutil.Error:
        pass
    return "another program"
