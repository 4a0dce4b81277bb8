"""TRex, stateless: what guests send, in CSIT's NAT44 shapes (hosts x 63 source ports).

    start -f scripts/trex/stl_nat44.py -p 0 -m 1mpps -t --hosts 1024 --size 64

Port 0 is on the guests' side. Nothing is sent from the other side: stateless streams cannot know which external
ports the router chose. For both directions take astf_nat44.py.
"""
import argparse

from trex.stl.api import *

PORTS_PER_HOST = 63
FIRST_PORT = 1024
FIRST_REMOTE_PORT = 8080


def address(text, places):
    """The address that lies `places` behind `text`."""
    number = int.from_bytes(bytes(int(part) for part in text.split(".")), "big") + places
    return ".".join(str(part) for part in number.to_bytes(4, "big"))


class Nat44:
    """One stream that goes through all sessions in turn."""

    def get_streams(self, direction=0, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
        parser.add_argument("--hosts", type=int, default=1024, help="guests: CSIT has 1024, 4096, 16384, 65536, 262144")
        parser.add_argument("--size", type=int, default=64, help="bytes of a frame, its checksum sequence counted")
        parser.add_argument("--protocol", choices=("udp", "tcp"), default="udp")
        parser.add_argument("--first-host", default="10.16.0.2", help="the first guest's address")
        parser.add_argument("--remote", default="203.0.113.1", help="whom they send to")
        arguments = parser.parse_args(tunables)
        if direction != 0:
            return []
        transport = {
            "udp": UDP(sport=FIRST_PORT, dport=FIRST_REMOTE_PORT),
            # A SYN opens a session; as later packets of the stream it changes nothing.
            "tcp": TCP(sport=FIRST_PORT, dport=FIRST_REMOTE_PORT, flags="S"),
        }[arguments.protocol]
        packet = Ether() / IP(src=arguments.first_host, dst=arguments.remote) / transport
        padding = max(0, arguments.size - 4 - len(packet)) * "x"
        changes = STLVM()
        changes.tuple_var(
            name="session",
            ip_min=arguments.first_host,
            ip_max=address(arguments.first_host, arguments.hosts - 1),
            port_min=FIRST_PORT,
            port_max=FIRST_PORT + PORTS_PER_HOST - 1,
            limit_flows=arguments.hosts * PORTS_PER_HOST,
        )
        changes.write(fv_name="session.ip", pkt_offset="IP.src")
        changes.write(fv_name="session.port", pkt_offset=arguments.protocol.upper() + ".sport")
        # The transport's checksum covers addresses and ports, so a card without offload needs it made right here.
        changes.fix_chksum_hw(
            l3_offset="IP",
            l4_offset=arguments.protocol.upper(),
            l4_type={"udp": CTRexVmInsFixHwCs.L4_TYPE_UDP, "tcp": CTRexVmInsFixHwCs.L4_TYPE_TCP}[arguments.protocol],
        )
        return [STLStream(packet=STLPktBuilder(pkt=packet / padding, vm=changes), mode=STLTXCont(pps=1))]


def register():
    return Nat44()
