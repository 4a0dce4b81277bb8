"""natwerk beside Linux nftables: two routers side by side, measured in turn. Called by scripts/bench.sh.

Each router stands between a client and a server, in namespaces of its own:

    nwb-X-client c0 ── r0 nwb-X-router r1 ── s0 nwb-X-server        X: nft, natwerk

All of a router's work is on the last core (its NAPI threads and natwerk's worker are pinned there); the generator and
the receiver are on the first. A figure is what arrived behind the router. It is the router's limit only where its core
was busy throughout, which the report says; else it is the generator's.
"""
import argparse
import glob
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

NATWERK = os.environ["NATWERK"]
# Behind one address there is no room for a million sessions to one server.
ADDRESSES = ["203.0.113.%d" % last for last in range(10, 30)]
SERVER = "203.0.113.1"
FIRST_GUEST = "10.16.0.2"
ROUTER_MAC = "02:00:00:00:00:01"
GENERATOR_CORE, ROUTER_CORE = "0", str(os.cpu_count() - 1)
# name: (hosts, ports of each, what it measures)
FLOWS = {"flows-1": (1, 1), "flows-1k": (16, 63), "flows-64k": (1024, 63), "flows-1m": (16384, 63)}
CASES = [*FLOWS, "new-64k", "new-1m", "latency", "tcp"]
# RFC 9693's, in the order in which one run takes them; only by name, because searches take long.
RFC_9693 = ["validation", "establishment", "throughput-0", "throughput-0.5", "teardown"]


def run(*command, check=True):
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True)
    if check and done.returncode:
        sys.exit("%s: %s" % (" ".join(map(str, command)), done.stderr.strip()))
    return done.stdout


class Lab:
    """A client, a router and a server."""

    def __init__(self, name):
        self.name = name
        self.client, self.router, self.server = ("nwb-%s-%s" % (name, part) for part in ("client", "router", "server"))
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

    def pin(self):
        """Gives the router's side of each cable a NAPI thread on its core, as often as that was undone."""
        for device in ("r0", "r1"):
            self.within(self.router, "sh", "-c", "echo 1 > /sys/class/net/%s/threaded" % device)
        for path in glob.glob("/proc/[0-9]*/comm"):
            try:
                with open(path) as comm:
                    if re.match(r"napi/r[01]-", comm.read()):
                        run("taskset", "-pc", ROUTER_CORE, path.split("/")[2], check=False)
            except OSError:
                pass                                    # it ended meanwhile

    def down(self):
        for namespace in (self.client, self.router, self.server):
            for pid in run("ip", "netns", "pids", namespace, check=False).split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except OSError:
                    pass
            run("ip", "netns", "del", namespace, check=False)


class Nftables(Lab):
    """Linux, forwarding and masquerading."""

    def __init__(self, folder):
        super().__init__("nft")
        run("ip", "-n", self.router, "address", "add", "10.16.0.1/12", "dev", "r0")
        for address in ADDRESSES:
            run("ip", "-n", self.router, "address", "add", address + "/24", "dev", "r1")
        for setting in ("net.ipv4.ip_forward=1", "net.netfilter.nf_conntrack_udp_timeout=300"):
            self.within(self.router, "sysctl", "-qw", setting)
        # One table for all namespaces; only the first one may set its size.
        run("sysctl", "-qw", "net.netfilter.nf_conntrack_max=4194304", check=False)
        with open("/sys/module/nf_conntrack/parameters/hashsize", "w") as buckets:
            buckets.write("1048576")
        rules = os.path.join(folder, "rules.nft")
        with open(rules, "w") as file:
            file.write("table ip nat {\n chain postrouting {\n  type nat hook postrouting priority 100;\n"
                       "  oifname \"r1\" snat to %s-%s\n }\n}\n" % (ADDRESSES[0], ADDRESSES[-1]))
        self.within(self.router, "nft", "-f", rules)
        self.pin()

    def forget(self):
        self.within(self.router, "conntrack", "-F", check=False)
        self.pin()


class Natwerk(Lab):
    """natwerk, with source NAT behind the same addresses."""

    def __init__(self, folder):
        super().__init__("natwerk")
        rules = {"version": 1,
                 "public_ips": [{"address": address, "prefix_len": 24, "interface": "r1", "gateway": SERVER} for address in ADDRESSES],
                 "networks": [{"name": "guests", "interface": "r0", "cidr": "10.16.0.0/12", "gateway": "10.16.0.1",
                               "source_nat": ADDRESSES, "egress_default": "allow"}]}
        self.socket = os.path.join(folder, "control.sock")
        with open(os.path.join(folder, "rules.json"), "w") as file:
            json.dump(rules, file)
        config = os.path.join(folder, "natwerk.toml")
        with open(config, "w") as file:
            file.write('rules = ["%s/rules.json"]\nstate_dir = "%s/state"\ncontrol_socket = "%s"\nmanage_addresses = true\n'
                       '[[interface]]\nname = "r1"\nrole = "public"\n[[interface]]\nname = "r0"\nrole = "guest"\n'
                       '[sessions]\nmax = 1200000\nper_guest = 0\n' % (folder, folder, self.socket))
        self.log = open(os.path.join(folder, "engine.log"), "w+")
        self.process = subprocess.Popen(["ip", "netns", "exec", self.router, NATWERK, "run", "--config", config], text=True,
                                        stdout=subprocess.PIPE, stderr=self.log)
        if not self.process.stdout.readline().startswith("ready"):
            self.log.seek(0)
            sys.exit("natwerk did not start: " + self.log.read()[-600:])
        self.pin()

    def forget(self):
        run(NATWERK, "sessions", "flush", "--socket", self.socket)
        self.pin()

    def down(self):
        if hasattr(self, "process"):
            self.process.terminate()
            self.process.wait(20)
        super().down()


def core_busy(core):
    """Hundredths of a second that a core has worked."""
    with open("/proc/stat") as stat:
        for line in stat:
            fields = line.split()
            if fields[0] == "cpu" + core:
                values = [int(value) for value in fields[1:]]
                return sum(values) - values[3] - values[4]
    raise RuntimeError("no core " + core)


def send(lab, hosts, ports, seconds, *options):
    return lab.start(lab.client, NATWERK, "generate", "send", "--interface", "c0", "--router-mac", ROUTER_MAC, "--destination", SERVER,
                     "--first-source", FIRST_GUEST, "--hosts", hosts, "--ports", ports, "--seconds", seconds, "--json", *options)


def finished(process):
    out, err = process.communicate()
    if process.returncode:
        sys.exit("natwerk generate failed: " + err)
    return json.loads(out)


def measure(lab, hosts, ports, seconds, *options):
    """What arrives of a stream, and what it costs the router's core."""
    receiver = lab.start(lab.server, NATWERK, "generate", "receive", "--interface", "s0", "--seconds", seconds + 1.0, "--json")
    time.sleep(0.5)
    busy = core_busy(ROUTER_CORE)
    sender = send(lab, hosts, ports, seconds, *options)
    sent = finished(sender)
    busy = core_busy(ROUTER_CORE) - busy
    share = busy / 100 / sent["seconds"]
    arrived = finished(receiver)
    if arrived["wrong_checksum"] or not arrived["packets"]:
        sys.exit("%s: %d of %d packets arrived, %d with a wrong checksum" % (
            lab.name, arrived["packets"], sent["packets"], arrived["wrong_checksum"]))
    return {"sent": sent["packets"], "arrived": arrived["packets"], "kpps": arrived["packets"] / sent["seconds"] / 1000,
            "core_us_per_packet": busy * 10_000 / arrived["packets"], "core_busy": share, "latency_us": arrived["latency_us"]}


def fill(lab, hosts, ports):
    """Opens every flow once, slowly enough for all to be opened."""
    flows = hosts * ports
    finished(send(lab, hosts, ports, 60, "--in-order", "--count", flows, "--rate", 100_000 if flows > 1000 else 10_000))


def flows_case(name):
    hosts, ports = FLOWS[name]

    def case(lab, seconds):
        lab.forget()
        fill(lab, hosts, ports)
        return measure(lab, hosts, ports, seconds)
    return case


def new_case(hosts):
    def case(lab, _seconds):
        lab.forget()
        result = measure(lab, hosts, 63, 30, "--in-order", "--count", hosts * 63)
        return result
    return case


def latency_case(lab, seconds):
    lab.forget()
    fill(lab, 16, 63)
    return measure(lab, 16, 63, seconds, "--rate", 20_000)


def tcp_case(lab, seconds):
    lab.forget()
    server = lab.start(lab.server, "iperf3", "-s", "-1")
    time.sleep(0.5)
    client = lab.start(lab.client, "iperf3", "-c", SERVER, "-t", int(seconds), "--json")
    out, _ = client.communicate()
    server.wait()
    return {"mbit_per_second": json.loads(out)["end"]["sum_received"]["bits_per_second"] / 1e6}


def case_of(name):
    if name in FLOWS:
        return flows_case(name)
    cases = {"new-64k": new_case(1024), "new-1m": new_case(16384), "latency": latency_case, "tcp": tcp_case}
    return cases.get(name) or RFC_9693_CASES[name]


def loss(result):
    return 1 - result["arrived"] / result["sent"]


def highest(trial, most, limit, steps=7):
    """The highest rate, packets a second, at which no more than `limit` is lost: RFC 2544's binary search from what the
    generator can do at most. `trial` returns a result of `measure`; the one at that rate is returned, none if all lost more."""
    best, low, high = None, 0.0, most
    rate = most
    for _ in range(steps):
        result = trial(int(rate))
        # What was not offered proves nothing about a higher rate.
        if loss(result) <= limit:
            best, low = result, rate
        else:
            high = rate
        if best and rate == most:
            break
        rate = (low + high) / 2
    return best


def offered(result):
    """Thousands of packets a second that were sent."""
    return result["kpps"] * result["sent"] / result["arrived"]


def validation_case(lab, _seconds):
    """Opens all flows, then sees whether every one of them passes again (RFC 9693, section 4.3)."""
    lab.forget()
    fill(lab, 1024, 63)
    return {"percent": 100 * (1 - loss(measure(lab, 1024, 63, 30, "--in-order", "--count", 1024 * 63, "--rate", 50_000)))}


def establishment_case(lab, _seconds):
    """The highest rate of new flows at which every one is opened (section 4.4)."""
    def trial(rate):
        lab.forget()
        return measure(lab, 1024, 63, 30, "--in-order", "--count", 1024 * 63, *(["--rate", rate] if rate else []))
    best = highest(trial, offered(trial(0)) * 1000, 0.0)
    return {"kpps": offered(best) if best else 0.0}


def throughput_case(limit):
    """The highest rate over flows that are open at which no more than `limit` is lost (section 4.5)."""
    def case(lab, seconds):
        lab.forget()
        fill(lab, 1024, 63)
        trial = lambda rate: measure(lab, 1024, 63, seconds, *(["--rate", rate] if rate else []))
        best = highest(trial, offered(trial(0)) * 1000, limit)
        return {"kpps": offered(best) if best else 0.0}
    return case


def teardown_case(lab, _seconds):
    """How fast all flows are ended (section 4.6)."""
    lab.forget()
    fill(lab, 1024, 63)
    start = time.monotonic()
    lab.forget()
    return {"kpps": 1024 * 63 / (time.monotonic() - start) / 1000}


RFC_9693_CASES = dict(zip(RFC_9693, (validation_case, establishment_case, throughput_case(0.0), throughput_case(0.005), teardown_case)))
UNITS = {
    "latency": ("us p50", None, "lower"), "tcp": ("Mbit/s", "mbit_per_second", "higher"), "validation": ("% pass", "percent", "higher"),
    "establishment": ("k/s", "kpps", "higher"), "teardown": ("k/s", "kpps", "higher"),
}


def spread(values, digits=0):
    return "%.*f (%.*f-%.*f)" % (digits, statistics.median(values), digits, min(values), digits, max(values))


def row(name, pairs):
    """A line of the report: the case, both, and how natwerk compares."""
    (unit, key, better) = UNITS.get(name, ("kpps", "kpps", "higher"))
    value = (lambda one: one["latency_us"][0]) if key is None else (lambda one: one[key])
    values = {who: [value(pair[who]) for pair in pairs] for who in ("nft", "natwerk")}
    # A search that found no rate at all has no ratio to anything.
    ratios = [value(pair["natwerk"]) / (value(pair["nft"]) or float("nan")) for pair in pairs]
    line = {"case": name, "unit": unit, "better": better, "nft": values["nft"], "natwerk": values["natwerk"], "ratios": ratios}
    if all("core_busy" in one for pair in pairs for one in pair.values()):
        for cost in ("core_us_per_packet", "core_busy"):
            line[cost] = {who: [pair[who][cost] for pair in pairs] for who in values}
    if name == "latency":
        line["percentiles_us"] = {who: [pair[who]["latency_us"] for pair in pairs] for who in values}
    return line


def print_row(line):
    text = "%-10s %-7s nftables %-22s natwerk %-22s ratio %s" % (
        line["case"], line["unit"], spread(line["nft"]), spread(line["natwerk"]), spread(line["ratios"], 2))
    if "core_us_per_packet" in line:
        for name, cost, scale in (("router core us/packet", "core_us_per_packet", 1), ("busy %", "core_busy", 100)):
            medians = [scale * statistics.median(line[cost][who]) for who in ("nft", "natwerk")]
            text += "   %s %.2f / %.2f" % (name, *medians)
    if "percentiles_us" in line:
        for who in ("nft", "natwerk"):
            p99, p999 = (statistics.median(values[place] for values in line["percentiles_us"][who]) for place in (1, 2))
            text += "   %s p99 %.0f p99.9 %.0f" % (who, p99, p999)
    print(text, flush=True)


def svg(lines):
    """A bar for each case: natwerk's ratio to nftables."""
    bars = [(line["case"], statistics.median(line["ratios"]), line["better"]) for line in lines]
    scale = 400 / max(2.0, max(ratio for _, ratio, _ in bars))
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="640" height="%d" font-family="sans-serif" font-size="13">' % (30 * len(bars) + 40),
           '<text x="10" y="20">natwerk as a multiple of nftables (1 is equal)</text>']
    for place, (name, ratio, better) in enumerate(bars):
        y = 34 + 30 * place
        out.append('<text x="10" y="%d">%s</text><rect x="110" y="%d" width="%.1f" height="18" fill="#4a7"/>'
                   '<text x="%.1f" y="%d">%.2f%s</text>' % (y + 14, name, y, ratio * scale, 116 + ratio * scale, y + 14, ratio,
                                                          " (lower is better)" if better == "lower" else ""))
    out.append('<line x1="%.1f" x2="%.1f" y1="30" y2="%d" stroke="#333"/></svg>' % (110 + scale, 110 + scale, 34 + 30 * len(bars)))
    return "\n".join(out) + "\n"


def png(lines, path):
    """The same bars."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("--png takes matplotlib: apt-get install python3-matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    names = ["%s%s" % (line["case"], " (lower is better)" if line["better"] == "lower" else "") for line in lines]
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.4 * len(lines)), layout="constrained")
    axes.barh(names, [statistics.median(line["ratios"]) for line in lines], color="#4a7")
    axes.axvline(1, color="#333")
    axes.invert_yaxis()
    axes.set_xlabel("natwerk as a multiple of nftables (1 is equal)")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", help="write every figure there")
    parser.add_argument("--svg", help="draw the ratios there")
    parser.add_argument("--png", help="draw them there by matplotlib (apt: python3-matplotlib)")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=" ".join([*CASES, *RFC_9693]) + "; rfc9693 stands for the last five")
    arguments = parser.parse_args()
    if arguments.cases == ["rfc9693"]:
        arguments.cases = RFC_9693
    for name in arguments.cases:
        if name not in CASES and name not in RFC_9693:
            parser.error("no case %s; there are: %s" % (name, " ".join([*CASES, *RFC_9693])))
    folder, labs, lines = tempfile.mkdtemp(prefix="natwerk-bench-"), [], []
    try:
        labs = [Nftables(folder), Natwerk(folder)]
        for name in arguments.cases or CASES:
            case = case_of(name)
            pairs = []
            for _ in range(arguments.pairs):
                pairs.append({lab.name: case(lab, arguments.seconds) for lab in labs})
            lines.append(row(name, pairs))
            print_row(lines[-1])
    finally:
        for lab in labs:
            lab.down()
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"cores": os.cpu_count(), "kernel": os.uname().release, "cases": lines}, file, indent=1)
    if arguments.svg:
        with open(arguments.svg, "w") as file:
            file.write(svg(lines))
    if arguments.png:
        png(lines, arguments.png)


main()
