"""natprobe's driver for natwerk: renders the neutral configuration into our rule file and configuration.

    natprobe.py --driver-file tests/natprobe/natwerk.py --driver natwerk

The program is taken from $NATWERK (default: target/release/natwerk of this checkout). It manages the
addresses of its interfaces itself; the kernel answers ARP for them and never forwards. With NATWERK_SHORTCUTS=xdp
packets may take shortcuts: as frames towards the wan, whose end takes such, and carried by the kernel the other way;
with NATWERK_SHORTCUTS=tc they are taken by the kernel's traffic control, and go by feeders if they take none.
"""
import ipaddress
import json
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading

from probe.drivers.base import Driver
from probe.net import in_ns, ns_exec, sh

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.environ.get("NATWERK", os.path.join(HERE, "..", "..", "target", "release", "natwerk"))
INTERFACES = {"wan": "wan0", "lan": "lan0", "lan1": "lan1"}
GUESTS = ("lan", "lan1")
# The hook, if packets may take shortcuts.
SHORTCUTS = os.environ.get("NATWERK_SHORTCUTS")
# The neutral configuration's names of protocols that are numbers here.
PROTOCOLS = {"igmp": 2, "ipip": 4, "ipencap": 4, "ipv6": 41, "ipv6-icmp": "icmpv6", "icmp6": "icmpv6"}
FILTERING = {"apdf": "address-and-port-dependent", "adf": "address-dependent", "eif": "endpoint-independent"}


class Natwerk(Driver):
    name = "natwerk"
    caps = {"apdf", "adf", "eif", "eim", "ed", "hairpin", "timeouts", "default_timers", "limits", "port_hold", "lb", "affinity",
            "zones", "mss", "fwd_range", "fwd_in_pool", "kill", "reload", "acl", "egress", "tier", "icmp_policy", "service",
            "vlan", "garp", "ipv6"}

    def start(self):
        self.dir = tempfile.mkdtemp(prefix="natwerk-probe-")
        self.path = {name: os.path.join(self.dir, name) for name in ("natwerk.toml", "rules.json", "control.sock", "log")}
        self.process, self.toml, self.mtu = None, None, {}
        for device in INTERFACES.values():
            # The kernel may speak from its link-local address at once, not only when nobody else claimed it.
            ns_exec(self.rtr, ["sysctl", "-qw", "net.ipv6.conf.%s.accept_dad=0" % device])
            sh(["ip", "-n", self.rtr, "link", "set", device, "up"])
        if SHORTCUTS == "xdp":
            # What leaves there leaves as frames, and what comes from there is carried.
            ns_exec(self.topo.ns["wan"], ["ethtool", "-K", "h" + INTERFACES["wan"], "gro", "on"])
        # natwerk never gives out the ports that the router's own connections use.
        ns_exec(self.rtr, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=61000 61099"])

    # ------------------------------------------------------------ configuration
    def configure(self, cfg, fresh):
        for interface in cfg["interfaces"].values():
            if self.mtu.get(interface["dev"]) != interface["mtu"]:
                sh(["ip", "-n", self.rtr, "link", "set", interface["dev"], "mtu", str(interface["mtu"])])
                self.mtu[interface["dev"]] = interface["mtu"]
        self.write("rules.json", json.dumps(rules(cfg), indent=1))
        toml = self.configuration(cfg)
        if fresh or toml != self.toml or not self.alive():
            self.stop_process()
            self.write("natwerk.toml", toml)
            self.toml = toml
            self.start_process(forget=fresh)
            # The way of what the router itself says, as its operator would set it.
            wan = cfg["interfaces"]["wan"]
            sh(["ip", "-n", self.rtr, "route", "replace", "default", "via", wan["gw4"], "dev", wan["dev"], "onlink"], check=False)
        else:
            ns_exec(self.rtr, [PROGRAM, "reload", "--socket", self.path["control.sock"]])

    def write(self, name, text):
        new = self.path[name] + ".new"
        with open(new, "w") as f:
            f.write(text)
        os.rename(new, self.path[name])

    def configuration(self, cfg):
        t, limits = cfg["timeouts"], cfg["limits"]
        lines = ["rules = [%s]" % json.dumps(self.path["rules.json"]), "state_dir = %s" % json.dumps(os.path.join(self.dir, "state")),
                 "control_socket = %s" % json.dumps(self.path["control.sock"]), "manage_addresses = true"]
        for side, device in INTERFACES.items():
            lines += ["[[interface]]", 'name = "%s"' % device, 'role = "%s"' % ("public" if side == "wan" else "guest")]
        lines += ["[sessions]", "max = %d" % (limits["max_sessions"] or 65536), "per_guest = %d" % (limits["per_host_sessions"] or 0),
                  # "revoke" is about forwards and static NAT; what a filter let in lives on, as with conntrack.
                  'on_rule_removal = "%s"' % ("keep-filtered" if cfg["revoke"] == "kill" else "keep"),
                  "[timeouts]", "udp = %s" % t["udp"], "udp_single_exchange = %s" % t["udp"], "tcp_established = %s" % t["tcp_est"],
                  "tcp_transitory = %s" % t["tcp_trans"], "icmp = %s" % t["icmp"], "fragment = %s" % t["frag"]]
        lines += ["[workers]", "shortcuts = %d" % (1024 if SHORTCUTS else 0), "hook = %s" % json.dumps(SHORTCUTS or "auto")]
        if cfg["icmp_error_rate"] != "default":
            lines += ["[icmp]", "errors_per_second = %d" % (cfg["icmp_error_rate"] or 0)]
        return "\n".join(lines) + "\n"

    # ------------------------------------------------------------ the process
    def start_process(self, forget):
        if forget:
            shutil.rmtree(os.path.join(self.dir, "state"), ignore_errors=True)
            for device in INTERFACES.values():
                sh(["ip", "-n", self.rtr, "addr", "flush", "dev", device, "scope", "global"], check=False)
                sh(["ip", "-n", self.rtr, "neigh", "flush", "dev", device], check=False)
        self.log = open(self.path["log"], "ab")
        self.process = subprocess.Popen(["ip", "netns", "exec", self.rtr, PROGRAM, "run", "--config", self.path["natwerk.toml"]],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        lines = queue.Queue()
        threading.Thread(target=lambda out: [lines.put(line) for line in out] and None or lines.put(""),
                         args=(self.process.stdout,), daemon=True).start()
        line = ""
        try:
            while not line.startswith("ready"):
                line = lines.get(timeout=20)
                if not line and self.process.poll() is not None:
                    break
        except queue.Empty:
            pass
        if not line.startswith("ready"):
            with open(self.path["log"], errors="replace") as f:
                raise RuntimeError("natwerk did not become ready: " + f.read()[-400:])

    def stop_process(self):
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def alive(self):
        return getattr(self, "process", None) is not None and self.process.poll() is None

    def stop(self):
        if hasattr(self, "dir"):
            self.stop_process()
            shutil.rmtree(self.dir, ignore_errors=True)

    # ------------------------------------------------------------ extras
    def service(self, proto, port):
        with in_ns(self.rtr):
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("0.0.0.0", port))
            if proto == "tcp":
                s.listen(16)
        s.setblocking(False)
        return s

    def default_timeouts(self):
        """What natwerk ships: asked of the program with a configuration that names no timeout."""
        bare = os.path.join(self.dir, "bare.toml")
        with open(bare, "w") as f:
            f.write('rules = []\n[[interface]]\nname = "wan0"\nrole = "public"\n')
        out = subprocess.run([PROGRAM, "show", "config", "--offline", "--config", bare, "--json"], check=True, capture_output=True, text=True)
        t = json.loads(out.stdout)["timeouts"]
        return {"udp": t["udp"], "tcp_est": t["tcp_established"], "tcp_trans": t["tcp_transitory"], "icmp": t["icmp"]}


# ---------------------------------------------------------------- rendering
def network_of(address):
    return str(ipaddress.ip_interface(address).network)


def host_of(address):
    return address.split("/")[0]


def rules(cfg):
    nat, fw, interfaces = cfg["nat"], cfg["firewall"], cfg["interfaces"]
    tiers = bool(fw["tier"])
    out = {"version": 1, "public_ips": [], "networks": [], "egress_rules": [], "firewall_rules": [], "port_forwards": [],
           "static_nats": [], "load_balancers": [], "network_acls": [], "local_services": []}
    wan, tag = interfaces["wan"], (cfg["vlan"] or {}).get("wan") or 0
    publics = [host_of(wan["addr4"])]
    for s in nat["snat"]:
        publics += s["pool"]
    publics += [x["pub"] for x in nat["static"] + nat["forward"] + nat["lb"] + fw["ingress"]]
    for address in dict.fromkeys(publics):
        out["public_ips"].append({"address": address, "prefix_len": int(wan["addr4"].split("/")[1]), "interface": wan["dev"], "vlan": tag,
                                  "gateway": wan["gw4"], "ingress_default": fw["ingress_default"], "firewall_before_acl": tiers,
                                  "echo_reply": bool(cfg["icmp_echo_public"])})
    out["public_ipv6"] = [{"address": host_of(wan["addr6"]), "prefix_len": int(wan["addr6"].split("/")[1]), "interface": wan["dev"],
                           "vlan": tag, "gateway": wan["gw6"]}]
    for side in GUESTS:
        out["networks"].append(network(cfg, side, "np" if tiers else side))
    if tiers:
        out["network_acls"] = tier_acls(cfg)
    else:
        out["egress_rules"] = egress_rules(cfg)
        out["ipv6_firewall_rules"] = ingress_ipv6(cfg)
    for k, r in enumerate(fw["ingress"]):
        out["firewall_rules"].append({"id": "f%d" % k, "public_ip": r["pub"], "action": r["action"], **transport(r),
                                      "sources": [r.get("src") or "0.0.0.0/0"]})
    for k, f in enumerate(nat["forward"]):
        out["port_forwards"].append({"id": "p-%s-%s-%d-%d" % (f["proto"], f["pub"], f["pub_ports"][0], k), "public_ip": f["pub"],
                                     "protocol": f["proto"], "public_ports": span(f["pub_ports"]), "network": side_of(cfg, f, f["priv"]),
                                     "guest_ip": f["priv"], "guest_ports": span(f["priv_ports"]), "sources": f["allow"]})
    for s in nat["static"]:
        out["static_nats"].append({"id": "s-%s" % s["pub"], "public_ip": s["pub"], "network": side_of(cfg, s, s["priv"]), "guest_ip": s["priv"]})
    for b in nat["lb"]:
        out["load_balancers"].append({"id": "l-%s-%s-%d" % (b["proto"], b["pub"], b["port"]), "public_ip": b["pub"], "protocol": b["proto"],
                                      "public_port": b["port"], "network": side_of(cfg, b, b["backends"][0][0] if b["backends"] else None),
                                      "algorithm": {"roundrobin": "round-robin"}.get(b["algo"], b["algo"]),
                                      "members": [{"guest_ip": ip, "guest_port": port, "weight": 1} for ip, port in b["backends"]]})
    for proto, port in cfg["services"]:
        out["local_services"].append({"address": host_of(wan["addr4"]), "protocol": proto, "ports": str(port)})
    return out


def side_of(cfg, service, guest):
    """The network of a service: the one it names, else the one that its guest is in."""
    holds = [side for side in GUESTS if guest and ipaddress.ip_address(guest) in ipaddress.ip_interface(cfg["interfaces"][side]["addr4"]).network]
    return service.get("if") or (holds or ["lan"])[0]


def network(cfg, side, domain):
    nat, interface = cfg["nat"], cfg["interfaces"][side]
    snat = [s for s in nat["snat"] if s["if"] == side]
    options = {"filtering_type": FILTERING[nat["filter"]], "mapping_type": "endpoint-independent", "overload": nat["mode"] == "ed",
               "hairpinning": nat["hairpin"], "hold_down_timeout": nat.get("port_hold") or 0,
               "exempt_destinations": [x["dst"] for x in nat["no_nat"]]}
    if snat and snat[0]["ports"]:
        options["port_range"] = span(snat[0]["ports"])
    out = {"name": side, "interface": interface["dev"], "cidr": network_of(interface["addr4"]), "gateway": host_of(interface["addr4"]),
           "ipv6": {"cidr": network_of(interface["addr6"]), "gateway": host_of(interface["addr6"])},
           "mtu": interface["mtu"], "domain": domain, "source_nat": list(dict.fromkeys(a for s in snat for a in s["pool"])),
           "egress_default": cfg["firewall"]["egress_default"], "egress_reject": cfg["firewall"]["egress_reject"],
           "anti_spoofing": cfg["antispoof"], "nat": options}
    if (cfg["vlan"] or {}).get(side):
        out["vlan"] = cfg["vlan"][side]
    if cfg["mss_clamp"]:
        out["mss_clamp"] = "path-mtu" if cfg["mss_clamp"] == "pmtu" else cfg["mss_clamp"]
    return out


def span(ports):
    return str(ports[0]) if ports[0] == ports[1] else "%d-%d" % tuple(ports)


def transport(rule):
    protocol = rule.get("proto") or "all"
    out = {"protocol": PROTOCOLS.get(protocol, protocol)}
    if rule.get("ports"):
        out["ports"] = span(rule["ports"])
    if rule.get("icmp"):
        out["icmp_type"], out["icmp_code"] = [-1 if x is None else x for x in rule["icmp"]]
    return out


def egress_rules(cfg):
    """The rules of the outside are IPv4's; IPv6 may leave."""
    fw, out = cfg["firewall"], []
    if fw["egress"] or fw["egress_default"] == "deny":
        out = [{"id": "six-%s" % side, "network": side, "action": "allow", "destinations": ["::/0"]} for side in GUESTS]
    for k, r in enumerate(fw["egress"]):
        for side in [r["if"]] if r.get("if") else GUESTS:
            out.append({"id": "e%d-%s" % (k, side), "network": side, "action": r["action"], **transport(r),
                        "sources": [r["src"]] if r.get("src") else [], "destinations": [r.get("dst") or "0.0.0.0/0"]})
    return out


def entering_ipv6(cfg, side):
    """The rules of IPv6 that are about a network, and what of it each is about."""
    inside = ipaddress.ip_interface(cfg["interfaces"][side]["addr6"]).network
    for k, r in enumerate(cfg["firewall"]["ingress6"]):
        destination = ipaddress.ip_network(r.get("dst") or "::/0")
        if destination.overlaps(inside):
            yield k, r, str(destination if destination.subnet_of(inside) else inside)


def ingress_ipv6(cfg):
    """Each rule for the networks that its destination is in."""
    return [{"id": "i%d-%s" % (k, side), "network": side, "action": r["action"], **transport(r), "destinations": [inside]}
            for side in GUESTS for k, r, inside in entering_ipv6(cfg, side)]


def tier_acls(cfg):
    """Tier rules as ACLs of both networks; behind them what the egress rules and those of IPv6 say of the outside.

    What comes from outside passed the public address's firewall before."""
    fw, out = cfg["firewall"], []
    for side, other in (("lan", "lan1"), ("lan1", "lan")):
        there = [network_of(cfg["interfaces"][other][family]) for family in ("addr4", "addr6")]
        apart = {"action": "deny", "cidr": there}
        sending = [entry(r, r.get("src"), r.get("dst") or there[0]) for r in fw["tier"] if r["from"] == side]
        sending += [apart, {"action": "allow", "cidr": "::/0"}]
        sending += [entry(r, r.get("src"), r.get("dst") or "0.0.0.0/0") for r in fw["egress"] if r.get("if") in (None, side)]
        sending.append({"action": fw["egress_default"]})
        receiving = [entry(r, r.get("dst"), r.get("src") or there[0]) for r in fw["tier"] if r["to"] == side]
        receiving.append(apart)
        receiving += [entry(r, inside, "::/0") for _, r, inside in entering_ipv6(cfg, side)]
        receiving.append({"action": "allow", "cidr": "0.0.0.0/0"})
        for direction, entries in (("egress", sending), ("ingress", receiving)):
            out.append({"network": side, "direction": direction,
                        "entries": [dict(e, number=k + 1) for k, e in enumerate(entries)]})
    return out


def entry(rule, guests, far):
    return {"action": rule["action"], **transport(rule), "guests": [guests] if guests else [], "cidr": far}


DRIVERS = {"natwerk": Natwerk}
