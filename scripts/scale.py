"""Rules of a large router, and how long natwerk takes to start with them.

    python3 scripts/scale.py rules 1000 >rules.json      1,000 networks, 10,000 public addresses, 100,000 rules
    sudo python3 scripts/scale.py start 1 100 1000       starts with so many networks, one after the other
    sudo NATWERK_SESSIONS=4194304 python3 scripts/scale.py start 1       the same with a table for so many sessions

Every network has the same prefix, under a tag and in a realm of its own, ten public addresses (one for its source NAT, three
static NATs, six with forwarded ports) and a hundred rules. `start` runs $NATWERK (target/release/natwerk) on veth in
namespaces of its own, with the addresses put on the interface by natwerk, and says how long it took until it was ready, until
the kernel had every address, what processor time that cost, and the memory it has then.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

NATWERK = os.environ.get("NATWERK", "target/release/natwerk")
SESSIONS = int(os.environ.get("NATWERK_SESSIONS", 1_048_576))
ADDRESSES_PER_NETWORK = 10
FIRST_PUBLIC = 100 << 24 | 64 << 16 | 256
CONFIG = """rules = ["%s/rules.json"]
state_dir = "%s/state"
control_socket = "%s/control.sock"
manage_addresses = true
[[interface]]
name = "eth2"
role = "public"
[[interface]]
name = "eth0"
role = "guest"
[sessions]
max = %d
"""


def ipv4(number):
    return ".".join(str(part) for part in number.to_bytes(4, "big"))


def rules(networks):
    """A rule file's content."""
    out = {"version": 1, "public_ips": [], "networks": [], "static_nats": [], "port_forwards": [], "firewall_rules": [], "egress_rules": []}
    for number in range(networks):
        name, first = "net%d" % number, FIRST_PUBLIC + ADDRESSES_PER_NETWORK * number
        public = [ipv4(first + place) for place in range(ADDRESSES_PER_NETWORK)]
        out["public_ips"] += [{"address": address, "prefix_len": 12, "interface": "eth2", "gateway": "100.64.0.1"} for address in public]
        # From 1: guests under tag 0 would be untagged.
        out["networks"].append({"name": name, "interface": "eth0", "vlan": number + 1, "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
                                "source_nat": [public[0]], "egress_default": "allow"})
        opened = []
        for place in range(3):
            out["static_nats"].append({"id": "s%d-%d" % (number, place), "public_ip": public[1 + place], "network": name,
                                       "guest_ip": "10.1.1.%d" % (10 + place)})
            opened.append((public[1 + place], "22"))
        for place in range(27):
            address, port = public[4 + place % 6], str(8000 + place)
            out["port_forwards"].append({"id": "p%d-%d" % (number, place), "public_ip": address, "protocol": "tcp", "public_ports": port,
                                         "network": name, "guest_ip": "10.1.1.%d" % (20 + place), "guest_ports": port})
            opened.append((address, port))
        for place in range(40):
            address, port = opened[place % len(opened)]
            out["firewall_rules"].append({"id": "f%d-%d" % (number, place), "public_ip": address, "protocol": "tcp", "ports": port,
                                          "sources": ["%d.51.100.0/24" % (198 - place)]})
        for place in range(30):
            out["egress_rules"].append({"id": "e%d-%d" % (number, place), "network": name, "action": "deny", "protocol": "tcp",
                                        "ports": str(25 + place), "destinations": ["192.%d.0.0/16" % place]})
    return out


def run(*command):
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode:
        sys.exit("%s: %s" % (" ".join(command), done.stderr.strip()))
    return done.stdout


def until(claim, seconds=120):
    """Waits until `claim` holds; says how long it took."""
    start = time.monotonic()
    while not claim():
        if time.monotonic() - start > seconds:
            sys.exit("waited in vain")
        time.sleep(0.02)
    return time.monotonic() - start


def status(process, name):
    with open("/proc/%d/status" % process) as lines:
        return int(next(line.split()[1] for line in lines if line.startswith(name + ":"))) / 1024


def started(networks):
    """Starts natwerk once; returns a line of figures."""
    router, folder = "nws-%d-router" % os.getpid(), tempfile.mkdtemp(prefix="natwerk-scale-")
    process = None
    try:
        with open(os.path.join(folder, "rules.json"), "w") as file:
            json.dump(rules(networks), file)
        with open(os.path.join(folder, "natwerk.toml"), "w") as file:
            file.write(CONFIG % (folder, folder, folder, SESSIONS))
        run("ip", "netns", "add", router)
        for device in ("eth0", "eth2"):
            run("ip", "-n", router, "link", "add", device, "type", "veth", "peer", "name", "x" + device)
            for end in (device, "x" + device):
                run("ip", "-n", router, "link", "set", end, "addrgenmode", "none", "up")
                run("ip", "netns", "exec", router, "ethtool", "-K", end, "rxvlan", "off", "txvlan", "off")
        command = ["ip", "netns", "exec", router, NATWERK, "run", "--config", os.path.join(folder, "natwerk.toml")]
        with open(os.path.join(folder, "log"), "w+") as log:
            begin = time.monotonic()
            process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=log)
            line = process.stdout.readline()
            ready = time.monotonic() - begin
            log.seek(0)
            if not line.startswith("ready"):
                sys.exit("it did not start: " + log.read()[-1000:])
        with open("/proc/%d/stat" % process.pid) as stat:
            fields = stat.read().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        cost = (int(fields[11]) + int(fields[12])) / ticks
        wanted = networks * ADDRESSES_PER_NETWORK
        has_all = lambda: run("ip", "-n", router, "-4", "-o", "address", "show", "dev", "eth2").count("inet ") >= wanted
        complete = ready + until(has_all)
        memory = status(process.pid, "VmRSS"), status(process.pid, "RssAnon")
        return networks, wanted, 100 * networks, ready, cost, complete, *memory
    finally:
        if process:
            process.terminate()
            process.wait(30)
        run("ip", "netns", "del", router)
        shutil.rmtree(folder, ignore_errors=True)


def main():
    arguments = sys.argv[1:]
    if len(arguments) < 2 or arguments[0] not in ("rules", "start") or not all(word.isdigit() for word in arguments[1:]):
        sys.exit(__doc__)
    if arguments[0] == "rules":
        json.dump(rules(int(arguments[1])), sys.stdout)
        return
    print("networks  addresses  rules   ready s  processor s  addresses there s  memory MB  of it heap MB")
    for networks in arguments[1:]:
        print("%8d  %9d  %6d  %7.2f  %11.2f  %17.2f  %9.0f  %13.0f" % started(int(networks)), flush=True)


if __name__ == "__main__":
    main()
