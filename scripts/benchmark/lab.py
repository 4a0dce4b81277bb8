"""Two routers side by side, each between a client and a server, in namespaces of its own:

    nwb-X-client c0 ── r0 nwb-X-router r1 ── s0 nwb-X-server        X: nft, natwerk

The router's work is on the last core: its NAPI threads and natwerk's worker. The generator and the NAPI threads of the
client and the server are on the first. All of them are real-time threads, so that nothing else takes their cores, and the receiver
goes before the generator, so that nothing is lost behind the router.
"""
import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import sys
import time

NATWERK = os.environ["NATWERK"]
# natwerk leaves the kernel its own ports, so one address has room for some 36,000 sessions to one server.
ADDRESSES = ["203.0.113.%d" % last for last in range(10, 50)]
SERVER = "203.0.113.1"
FIRST_GUEST = "10.16.0.2"
ROUTER_MAC = "02:00:00:00:00:01"
GENERATOR_CORE, ROUTER_CORE = "0", str(os.cpu_count() - 1)
# The kernel's router runs in the NAPI threads, natwerk's worker above them: it takes what one poll brought.
PRIORITIES = {"generator": 40, "napi": 45, "worker": 46}


def run(*command, check=True):
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True)
    if check and done.returncode:
        sys.exit("%s: %s" % (" ".join(map(str, command)), done.stderr.strip()))
    return done.stdout


def settle(thread, core, priority):
    """Gives a thread its core and makes it a real-time one, if it has a priority, or else an ordinary one."""
    run("taskset", "-pc", core, thread, check=False)
    run("chrt", *("-f", "-p", priority) if priority else ("-o", "-p", 0), thread, check=False)


def run_time(thread):
    """Seconds that a thread has run."""
    with open("/proc/%s/schedstat" % thread) as told:
        return int(told.read().split()[0]) / 1e9


class Lab:
    """A client, a router and a server."""
    napi_core, worker_priority = ROUTER_CORE, PRIORITIES["worker"]

    def __init__(self, name):
        self.name = name
        self.client, self.router, self.server = ("nwb-%s-%s" % (name, part) for part in ("client", "router", "server"))
        self.threads = []
        self.down()
        for namespace in (self.client, self.router, self.server):
            run("ip", "netns", "add", namespace)
            self.within(namespace, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        for (near, mac), far, namespace, far_mac in ((("r0", ROUTER_MAC), "c0", self.client, "02:00:00:00:00:02"),
                                                     (("r1", "02:00:00:00:00:03"), "s0", self.server, "02:00:00:00:00:04")):
            run("ip", "-n", self.router, "link", "add", near, "address", mac, "type", "veth",
                "peer", "name", far, "netns", namespace, "address", far_mac)
            for where, device in ((self.router, near), (namespace, far)):
                run("ip", "-n", where, "link", "set", device, "up")
                self.within(where, "ethtool", "-K", device, "gro", "on")
        run("ip", "-n", self.server, "address", "add", SERVER + "/24", "dev", "s0")
        run("ip", "-n", self.client, "address", "add", FIRST_GUEST + "/12", "dev", "c0")
        run("ip", "-n", self.client, "route", "add", "default", "via", "10.16.0.1")

    @staticmethod
    def within(namespace, *command, check=True):
        return run("ip", "netns", "exec", namespace, *command, check=check)

    def start(self, namespace, *command, core=GENERATOR_CORE):
        return subprocess.Popen(["ip", "netns", "exec", namespace, "taskset", "-c", core, *map(str, command)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def pin(self, ends=PRIORITIES["napi"]):
        """Gives every thread its core, and those of the client and the server this priority. A program that comes to or leaves an interface ends its NAPI thread, so this is
        done again before each measurement."""
        for namespace, device in ((self.client, "c0"), (self.router, "r0"), (self.router, "r1"), (self.server, "s0")):
            self.within(namespace, "sh", "-c", "echo 1 > /sys/class/net/%s/threaded" % device)
        self.threads = []
        # Those of the other lab have the same names, and rest.
        for thread, name in napi_threads().items():
            is_router = name.startswith("napi/r")
            settle(thread, self.napi_core if is_router else GENERATOR_CORE, PRIORITIES["napi"] if is_router else ends)
            if is_router:
                self.threads.append(thread)

    def pin_workers(self):
        """The same for the workers of the lab's process."""
        for path in glob.glob("/proc/%d/task/*/comm" % self.process.pid):
            is_worker = False
            with contextlib.suppress(OSError):          # it ended meanwhile
                with open(path) as comm:
                    is_worker = comm.read().startswith("worker-")
            if is_worker:
                thread = path.split("/")[4]
                settle(thread, ROUTER_CORE, self.worker_priority)
                self.threads.append(thread)

    def router_time(self):
        """Seconds that the router's threads have run."""
        return sum(run_time(thread) for thread in self.threads)

    def crossed(self):
        """Packets that were lost in front of the router, that it took, that it handed on, and that were lost behind it."""
        def packets(namespace, device):
            return json.loads(run("ip", "-n", namespace, "-s", "-j", "link", "show", "dev", device))[0]["stats64"]
        client, near, far = packets(self.client, "c0"), packets(self.router, "r0"), packets(self.router, "r1")
        return (client["tx"]["dropped"], near["rx"]["packets"], far["tx"]["packets"], far["tx"]["dropped"])

    def down(self):
        for namespace in (self.client, self.router, self.server):
            for pid in run("ip", "netns", "pids", namespace, check=False).split():
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", namespace, check=False)


@contextlib.contextmanager
def real_time():
    """Real-time threads may have their cores whole: the kernel takes a twentieth from them otherwise, in one piece, and may
    leave them without for seconds when both cores are full."""
    path = "/proc/sys/kernel/sched_rt_runtime_us"
    with open(path) as told:
        before = told.read()

    def tell(value):
        with open(path, "w") as file:
            file.write(value)
    tell("-1")
    try:
        yield
    finally:
        tell(before)


def napi_threads():
    """The NAPI threads of the labs' interfaces, by thread: their names."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/comm"):
        with contextlib.suppress(OSError):          # it ended meanwhile
            with open(path) as comm:
                name = comm.read().strip()
            if re.match(r"napi/[crs][01]-", name):
                found[path.split("/")[2]] = name
    return found


class Nftables(Lab):
    """Linux, doing natwerk's job: forwarding and masquerading, closed from outside, no strange sources, every session counted."""

    def __init__(self, folder, _options):
        super().__init__("nft")
        self.folder = folder
        run("ip", "-n", self.router, "address", "add", "10.16.0.1/12", "dev", "r0")
        for address in ADDRESSES:
            run("ip", "-n", self.router, "address", "add", address + "/24", "dev", "r1")
        for setting in ("net.ipv4.ip_forward=1", "net.netfilter.nf_conntrack_udp_timeout=300", "net.netfilter.nf_conntrack_acct=1",
                        "net.ipv4.conf.r0.rp_filter=1", "net.ipv4.conf.r1.rp_filter=1"):
            self.within(self.router, "sysctl", "-qw", setting)
        # One table for all namespaces; only the first one may set its size.
        run("sysctl", "-qw", "net.netfilter.nf_conntrack_max=4194304", check=False)
        with open("/sys/module/nf_conntrack/parameters/hashsize", "w") as buckets:
            buckets.write("1048576")
        rules = os.path.join(folder, "rules.nft")
        with open(rules, "w") as file:
            file.write("table ip nat {\n chain postrouting {\n  type nat hook postrouting priority 100;\n"
                       "  oifname \"r1\" snat to %s-%s\n }\n}\n" % (ADDRESSES[0], ADDRESSES[-1]) +
                       "table ip router {\n chain forward {\n  type filter hook forward priority 0; policy drop;\n"
                       "  ct state established,related accept\n  ct state invalid drop\n"
                       "  iifname \"r0\" oifname \"r1\" ip saddr 10.16.0.0/12 accept\n }\n}\n")
        self.within(self.router, "nft", "-f", rules)
        # So that resolving the server is no part of any case.
        run("ip", "-n", self.router, "neigh", "replace", SERVER, "lladdr", "02:00:00:00:00:04", "dev", "r1", "nud", "permanent")

    def forget(self):
        self.within(self.router, "conntrack", "-F", check=False)

    def sessions(self):
        return int(self.within(self.router, "sysctl", "-n", "net.netfilter.nf_conntrack_count"))

    def let_end_soon(self, _port, seconds):
        self.within(self.router, "sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=%d" % seconds)

    def show(self):
        self.within(self.router, "sh", "-c", "conntrack -L >/dev/null 2>&1")

    def reload(self, number):
        """A thousand rules that change each time, behind one for what is open already."""
        rules = "".join("  ip saddr 10.16.0.0/12 tcp dport %d drop\n" % (10_000 + (number + rule) % 40_000) for rule in range(1000))
        text = ("table ip firewall\ndelete table ip firewall\ntable ip firewall {\n chain forward {\n  type filter hook forward priority 0;\n"
                "  ct state established,related accept\n%s }\n}\n" % rules)
        path = os.path.join(self.folder, "firewall.nft")
        with open(path, "w") as file:
            file.write(text)
        self.within(self.router, "nft", "-f", path)


class Natwerk(Lab):
    """natwerk, with source NAT behind the same addresses."""

    def __init__(self, folder, options, sessions=1_200_000):
        super().__init__("natwerk")
        if options.spin:
            # A worker that never sleeps would leave its core to nobody.
            self.napi_core, self.worker_priority = GENERATOR_CORE, None
        self.base = {"version": 1,
                     "public_ips": [{"address": address, "prefix_len": 24, "interface": "r1", "gateway": SERVER} for address in ADDRESSES],
                     "networks": [{"name": "guests", "interface": "r0", "cidr": "10.16.0.0/12", "gateway": "10.16.0.1",
                                   "source_nat": ADDRESSES, "egress_default": "allow"}]}
        self.socket = os.path.join(folder, "control.sock")
        self.rules = os.path.join(folder, "rules.json")
        with open(self.rules, "w") as file:
            json.dump(self.base, file)
        self.config = os.path.join(folder, "natwerk.toml")
        with open(self.config, "w") as file:
            file.write('rules = ["%s/rules.json"]\nstate_dir = "%s/state"\ncontrol_socket = "%s"\nmanage_addresses = true\n'
                       '[[interface]]\nname = "r1"\nrole = "public"\n[[interface]]\nname = "r0"\nrole = "guest"\n'
                       # Ports that rest would be missing in the next case; the kernel has no such thing.
                       '[sessions]\nmax = %d\nper_guest = 0\n[timeouts]\nport_hold = 0\nudp_ports = { "10" = 20 }\n[workers]\nspin = %s\nshortcuts = %s\nhook = "%s"\n' % (
                           folder, folder, self.socket, sessions, json.dumps(options.spin), options.shortcuts, options.hook))
        self.log = open(os.path.join(folder, "engine.log"), "w+")
        self.process = subprocess.Popen(["ip", "netns", "exec", self.router, NATWERK, "run", "--config", self.config], text=True,
                                        stdout=subprocess.PIPE, stderr=self.log)
        if not self.process.stdout.readline().startswith("ready"):
            self.log.seek(0)
            sys.exit("natwerk did not start: " + self.log.read()[-600:])

    def pin(self, *ends):
        super().pin(*ends)
        self.pin_workers()

    def forget(self):
        run(NATWERK, "sessions", "flush", "--socket", self.socket)

    def let_end_soon(self, port, seconds):
        """The configuration has it already."""

    def show(self):
        with open(os.devnull, "w") as nowhere:
            subprocess.run([NATWERK, "show", "sessions", "--json", "--socket", self.socket], stdout=nowhere, check=True)

    def reload(self, number):
        """A thousand rules that change each time."""
        rule = lambda place: {"id": "r%d" % place, "network": "guests", "action": "deny", "protocol": "tcp",
                              "ports": str(10_000 + (number + place) % 40_000)}
        with open(self.rules, "w") as file:
            json.dump({**self.base, "egress_rules": [rule(place) for place in range(1000)]}, file)
        run(NATWERK, "reload", "--socket", self.socket)

    def sessions(self):
        return json.loads(run(NATWERK, "show", "stats", "--json", "--socket", self.socket))["sessions"]

    def down(self):
        if hasattr(self, "process"):
            self.process.terminate()
            self.process.wait(20)
            self.log.close()
        super().down()


class Bare(Lab):
    """AF_XDP without natwerk: frames go from one interface to the other by the same sockets, with new link addresses."""

    def __init__(self, _folder, _options):
        super().__init__("bare")
        # It sends no frames larger than the MTU. A veth whose peer may send such skips NAPI and GRO, and has what comes
        # from it received on the sender's core.
        for device in ("r0", "r1"):
            self.within(self.router, "ethtool", "-K", device, "tso", "off")
        self.process = self.start(self.router, NATWERK, "generate", "forward", "--from", "r0", "--to", "r1", "--own-mac", "02:00:00:00:00:03",
                                  "--to-mac", "02:00:00:00:00:04", "--seconds", 86_400, core=ROUTER_CORE)
        if not self.process.stdout.readline().startswith("ready"):
            sys.exit("the bare forward did not start: " + self.process.stderr.read())

    def pin(self, *ends):
        super().pin(*ends)
        self.pin_workers()

    def forget(self):
        """There is nothing to forget."""


def send(lab, hosts, ports, seconds, *options):
    return lab.start(lab.client, "chrt", "-f", PRIORITIES["generator"], NATWERK, "generate", "send", "--interface", "c0",
                     "--router-mac", ROUTER_MAC, "--destination", SERVER, "--first-source", FIRST_GUEST,
                     "--hosts", hosts, "--ports", ports, "--seconds", seconds, "--json", *options)


def finished(process):
    out, err = process.communicate()
    if process.returncode:
        sys.exit("natwerk generate failed: " + err)
    return json.loads(out)


def measure(lab, hosts, ports, seconds, *options, meanwhile=None):
    """What arrives of a stream, what it costs the router, and what set the pace. `meanwhile` is called while it flows."""
    receiver = lab.start(lab.server, NATWERK, "generate", "receive", "--interface", "s0", "--seconds", seconds + 2.5, "--json")
    # Its program is on the interface then, and natwerk has seen that: it looks once a second.
    time.sleep(1.5)
    lab.pin()
    worked, before = lab.router_time(), lab.crossed()
    sender = send(lab, hosts, ports, seconds, *options)
    if meanwhile:
        meanwhile()
    sent = finished(sender)
    worked = lab.router_time() - worked
    front, _, handed_on, behind = (after - earlier for earlier, after in zip(before, lab.crossed()))
    arrived = finished(receiver)
    if arrived["wrong_checksum"] or not arrived["packets"]:
        sys.exit("%s: %d of %d packets arrived, %d with a wrong checksum; %d were lost in front of it, %d left it, %d were lost behind" % (
            lab.name, arrived["packets"], sent["packets"], arrived["wrong_checksum"], front, handed_on, behind))
    lost = max(0, handed_on - arrived["packets"]) + behind
    busy = worked / sent["seconds"]
    return {"sent": sent["packets"], "arrived": arrived["packets"], "seconds": sent["seconds"],
            "kpps": arrived["packets"] / sent["seconds"] / 1000, "core_us_per_packet": worked * 1e6 / arrived["packets"], "core_busy": busy,
            "lost_in_front": front, "lost_behind": lost,
            # The router set the pace: more came than it took, all that it sent on arrived, and it never rested.
            "router_bound": front + sent["packets"] - arrived["packets"] > 0.02 * sent["packets"] and lost < 0.01 * sent["packets"] and busy > 0.9,
            "latency_us": arrived["latency_us"], "latencies_ns": arrived["latencies_ns"]}


def fill(lab, hosts, ports):
    """Opens every flow once, slowly enough for all to be opened."""
    flows = hosts * ports
    lab.pin()
    finished(send(lab, hosts, ports, 60, "--in-order", "--count", flows, "--rate", 100_000 if flows > 1000 else 10_000))
