"""natprobe's driver for natwerk: renders the neutral configuration into our rule file and configuration.

    natprobe.py --driver-file tests/natprobe/natwerk.py --driver natwerk

The program is taken from $NATWERK (default: target/release/natwerk of this checkout). It manages the
addresses of its interfaces itself; the kernel answers ARP for them and never forwards.
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
        # natwerk never gives out the ports that the router's own connections use.
        ns_exec(self.rtr, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=61000 65535"])

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
                  'on_rule_removal = "%s"' % ("end" if cfg["revoke"] == "kill" else "keep"),
                  "[timeouts]", "udp = %s" % t["udp"], "udp_single_exchange = %s" % t["udp"], "tcp_established = %s" % t["tcp_est"],
                  "tcp_transitory = %s" % t["tcp_trans"], "icmp = %s" % t["icmp"], "fragment = %s" % t["frag"]]
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
    wan = interfaces["wan"]
    publics = [host_of(wan["addr4"])]
    for s in nat["snat"]:
        publics += s["pool"]
    publics += [x["pub"] for x in nat["static"] + nat["forward"] + nat["lb"]]
    for address in dict.fromkeys(publics):
        out["public_ips"].append({"address": address, "prefix_len": int(wan["addr4"].split("/")[1]), "interface": wan["dev"],
                                  "gateway": wan["gw4"], "ingress_default": fw["ingress_default"],
                                  "echo_reply": bool(cfg["icmp_echo_public"])})
    out["public_ipv6"] = [{"address": host_of(wan["addr6"]), "prefix_len": int(wan["addr6"].split("/")[1]), "interface": wan["dev"],
                           "gateway": wan["gw6"]}]
    out["ipv6_firewall_rules"] = ingress_ipv6(cfg)
    for side in ("lan", "lan1"):
        out["networks"].append(network(cfg, side, "np" if tiers else side))
    if tiers:
        out["network_acls"] = tier_acls(cfg)
    else:
        out["egress_rules"] = egress_rules(cfg)
    for k, r in enumerate(fw["ingress"]):
        out["firewall_rules"].append({"id": "f%d" % k, "public_ip": r["pub"], "action": r["action"], **transport(r),
                                      "sources": [r.get("src") or "0.0.0.0/0"]})
    for k, f in enumerate(nat["forward"]):
        out["port_forwards"].append({"id": "p-%s-%s-%d-%d" % (f["proto"], f["pub"], f["pub_ports"][0], k), "public_ip": f["pub"],
                                     "protocol": f["proto"], "public_ports": span(f["pub_ports"]), "network": f["if"],
                                     "guest_ip": f["priv"], "guest_ports": span(f["priv_ports"]), "sources": f["allow"]})
    for s in nat["static"]:
        out["static_nats"].append({"id": "s-%s" % s["pub"], "public_ip": s["pub"], "network": s["if"], "guest_ip": s["priv"]})
    for b in nat["lb"]:
        out["load_balancers"].append({"id": "l-%s-%s-%d" % (b["proto"], b["pub"], b["port"]), "public_ip": b["pub"], "protocol": b["proto"],
                                      "public_port": b["port"], "network": b.get("if", "lan"), "algorithm": {"roundrobin": "round-robin"}.get(b["algo"], b["algo"]),
                                      "members": [{"guest_ip": ip, "guest_port": port, "weight": 1} for ip, port in b["backends"]]})
    for proto, port in cfg["services"]:
        out["local_services"].append({"address": host_of(wan["addr4"]), "protocol": proto, "ports": str(port)})
    return out


def network(cfg, side, domain):
    nat, interface = cfg["nat"], cfg["interfaces"][side]
    snat = next((s for s in nat["snat"] if s["if"] == side), None)
    options = {"filtering_type": FILTERING[nat["filter"]], "mapping_type": "endpoint-independent", "overload": nat["mode"] == "ed",
               "hairpinning": nat["hairpin"], "hold_down_timeout": nat.get("port_hold", 0),
               "exempt_destinations": [x["dst"] for x in nat["no_nat"]]}
    if snat and snat["ports"]:
        options["port_range"] = span(snat["ports"])
    out = {"name": side, "interface": interface["dev"], "cidr": network_of(interface["addr4"]), "gateway": host_of(interface["addr4"]),
           "ipv6": {"cidr": network_of(interface["addr6"]), "gateway": host_of(interface["addr6"])},
           "mtu": interface["mtu"], "domain": domain, "source_nat": snat["pool"] if snat else [],
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
    out = {"protocol": rule.get("proto") or "all"}
    if rule.get("ports"):
        out["ports"] = span(rule["ports"])
    if rule.get("icmp"):
        out["icmp_type"], out["icmp_code"] = [-1 if x is None else x for x in rule["icmp"]]
    return out


def egress_rules(cfg):
    out = []
    for k, r in enumerate(cfg["firewall"]["egress"]):
        for side in [r["if"]] if r.get("if") else ["lan", "lan1"]:
            out.append({"id": "e%d-%s" % (k, side), "network": side, "action": r["action"], **transport(r),
                        "sources": [r["src"]] if r.get("src") else [], "destinations": [r["dst"]] if r.get("dst") else []})
    return out


def ingress_ipv6(cfg):
    """Each rule for the networks that its destination is in."""
    out = []
    for k, r in enumerate(cfg["firewall"]["ingress6"]):
        for side in ("lan", "lan1"):
            destination = ipaddress.ip_network(r["dst"])
            if destination.overlaps(ipaddress.ip_interface(cfg["interfaces"][side]["addr6"]).network):
                out.append({"id": "i%d-%s" % (k, side), "network": side, "action": r["action"], **transport(r),
                            "destinations": [str(destination)]})
    return out


def tier_acls(cfg):
    """Tier rules as ACLs of both networks; behind them what the egress rules say of the outside."""
    fw = cfg["firewall"]
    cidr = {side: network_of(cfg["interfaces"][side]["addr4"]) for side in ("lan", "lan1")}
    out = []
    for side, other in (("lan", "lan1"), ("lan1", "lan")):
        sending = [dict(transport(r), action=r["action"], cidr=r.get("dst") or cidr[r["to"]]) for r in fw["tier"] if r["from"] == side]
        sending.append({"action": "deny", "protocol": "all", "cidr": cidr[other]})
        sending += [dict(transport(r), action=r["action"], cidr=r.get("dst") or "0.0.0.0/0") for r in fw["egress"] if r.get("if") in (None, side)]
        sending.append({"action": fw["egress_default"], "protocol": "all", "cidr": "0.0.0.0/0"})
        receiving = [dict(transport(r), action=r["action"], cidr=r.get("src") or cidr[r["from"]]) for r in fw["tier"] if r["to"] == side]
        receiving.append({"action": "deny", "protocol": "all", "cidr": cidr[other]})
        receiving.append({"action": fw["ingress_default"], "protocol": "all", "cidr": "0.0.0.0/0"})
        for direction, entries in (("egress", sending), ("ingress", receiving)):
            out.append({"network": side, "direction": direction,
                        "entries": [dict(e, number=k + 1) for k, e in enumerate(entries)]})
    return out


DRIVERS = {"natwerk": Natwerk}
