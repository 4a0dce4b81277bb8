"""TRex, stateful (ASTF): CSIT's NAT44 shapes, hosts x 63 sessions each, as connections or as packets.

    start -f scripts/trex/astf_nat44.py -m 1 -t --hosts 1024 --protocol udp --measure connections
    start -f scripts/trex/astf_nat44.py -m 1 -t --hosts 16384 --protocol tcp --measure packets

`connections`: every session is opened once and closed (TCP) or forgotten (UDP), as fast as -m says: that is new
sessions per second. `packets`: every session is opened and then carries a number of exchanges, so that established
traffic is what counts. Servers answer whatever external endpoint the router gave a client.
"""
import argparse

from trex.astf.api import *

SESSIONS_PER_HOST = 63
REMOTE_PORT = 8080
REQUEST = b"x" * 18
REPLY = b"y" * 18
# Exchanges of a session that is there for its packets.
EXCHANGES = 32
# How long a client leaves a UDP session open without an answer, in milliseconds.
KEEPALIVE_MS = 60_000


def address(text, places):
    """The address that lies `places` behind `text`."""
    number = int.from_bytes(bytes(int(part) for part in text.split(".")), "big") + places
    return ".".join(str(part) for part in number.to_bytes(4, "big"))


def udp(exchanges):
    """What client and server of a UDP session do."""
    client, server = ASTFProgram(stream=False), ASTFProgram(stream=False)
    for side in (client, server):
        side.set_keepalive_msg(KEEPALIVE_MS)
    client.set_var("left", exchanges)
    client.set_label("again:")
    client.send_msg(REQUEST)
    client.recv_msg(1, clear=True)
    client.jmp_nz("left", "again:")
    server.set_var("left", exchanges)
    server.set_label("again:")
    server.recv_msg(1, clear=True)
    server.send_msg(REPLY)
    server.jmp_nz("left", "again:")
    return client, server


def tcp(exchanges):
    """What client and server of a TCP connection do: without data it is opened and closed."""
    client, server = ASTFProgram(), ASTFProgram()
    if not exchanges:
        client.connect()
        server.accept()
        server.wait_for_peer_close()
        return client, server
    client.set_var("left", exchanges)
    client.set_label("again:")
    client.send(REQUEST)
    client.recv(len(REPLY), clear=True)
    client.jmp_nz("left", "again:")
    server.set_var("left", exchanges)
    server.set_label("again:")
    server.recv(len(REQUEST), clear=True)
    server.send(REPLY)
    server.jmp_nz("left", "again:")
    return client, server


class Nat44:
    """One template: all sessions of all hosts."""

    def get_profile(self, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--hosts", type=int, default=1024, help="guests: CSIT has 1024, 4096, 16384, 65536, 262144")
        parser.add_argument("--protocol", choices=("udp", "tcp"), default="udp")
        parser.add_argument("--measure", choices=("connections", "packets"), default="connections")
        parser.add_argument("--first-host", default="10.16.0.2", help="the first guest's address")
        parser.add_argument("--remote", default="203.0.113.1", help="the first server's address")
        parser.add_argument("--remotes", type=int, default=1, help="servers; many let one public address carry more sessions")
        arguments = parser.parse_args(tunables)
        if arguments.measure == "packets":
            exchanges = EXCHANGES
        else:
            exchanges = 1 if arguments.protocol == "udp" else 0
        client, server = {"udp": udp, "tcp": tcp}[arguments.protocol](exchanges)
        addresses = lambda first, count: ASTFIPGenDist(ip_range=[first, address(first, count - 1)], distribution="seq")
        generator = ASTFIPGen(
            # One pair of ports: the offset between pairs is never used.
            glob=ASTFIPGenGlobal(ip_offset="0.0.0.0"),
            dist_client=addresses(arguments.first_host, arguments.hosts),
            dist_server=addresses(arguments.remote, arguments.remotes),
        )
        sessions = arguments.hosts * SESSIONS_PER_HOST
        template = ASTFTemplate(
            client_template=ASTFTCPClientTemplate(
                program=client,
                ip_gen=generator,
                port=REMOTE_PORT,
                # With -m 1 all sessions open within a second.
                cps=sessions,
                limit=sessions,
                # Packets go on: whatever session ends is opened again.
                cont=arguments.measure == "packets",
            ),
            server_template=ASTFTCPServerTemplate(program=server, assoc=ASTFAssociationRule(port=REMOTE_PORT)),
        )
        return ASTFProfile(default_ip_gen=generator, templates=template)


def register():
    return Nat44()
