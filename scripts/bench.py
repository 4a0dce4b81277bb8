"""natwerk beside Linux nftables, or beside AF_XDP alone: two routers side by side, measured in turn. Called by scripts/bench.sh.

A figure is what arrived behind the router. For a rate it is the router's limit only where the router set the pace, which
each run is held against: packets were lost in front of it, none behind it, and its threads never rested.
"""
import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time

from benchmark import report
from benchmark.lab import GENERATOR_CORE, SERVER, Bare, Natwerk, Nftables, fill, finished, measure, real_time, send

# name: (hosts, ports of each)
FLOWS = {"flows-1": (1, 1), "flows-1k": (16, 63), "flows-64k": (1024, 63), "flows-1m": (16384, 63)}
LOUD = ["latency-reload", "latency-expiry", "latency-show"]
CASES = [*FLOWS, "new", "latency", "tcp", "tcp-frames"]
# RFC 9693's, in the order in which one run takes them; only by name, because searches take long.
RFC_9693 = ["validation", "establishment", "throughput-0", "throughput-0.5", "teardown", "capacity"]
# More flows than any router opens in the time of a run, so that every packet is a new one.
ENDLESS_HOSTS = 400_000
MILLION = 16384
WARM_SECONDS = 3
# Flows to this port end sooner than others, for latency-expiry.
SHORT_PORT, SHORT_SECONDS = 10, 20


def flows_case(name):
    hosts, ports = FLOWS[name]

    def case(lab, seconds):
        lab.forget()
        fill(lab, hosts, ports)
        # A stream that has lasted: what a router remembers of it besides is there.
        finished(send(lab, hosts, ports, WARM_SECONDS))
        return measure(lab, hosts, ports, seconds)
    return case


def new_case(lab, seconds):
    """Every packet a new flow; as many of them come through as the router opens."""
    lab.forget()
    return measure(lab, ENDLESS_HOSTS, 63, min(seconds, 2.0), "--in-order")


def latency_case(lab, seconds):
    lab.forget()
    fill(lab, 16, 63)
    return measure(lab, 16, 63, seconds, "--rate", 20_000)


def tcp_case(lab, seconds):
    lab.forget()
    # iperf3 is an ordinary process: what receives for it must not keep it from its core.
    lab.pin(None)
    server = lab.start(lab.server, "iperf3", "-s", "-1")
    time.sleep(0.5)
    # The first seconds are those of a stream that begins, and no part of the figure.
    client = lab.start(lab.client, "iperf3", "-c", SERVER, "-t", int(seconds), "--omit", WARM_SECONDS, "--json")
    out, _ = client.communicate()
    server.wait()
    return {"mbit_per_second": json.loads(out)["end"]["sum_received"]["bits_per_second"] / 1e6}


def tcp_frames_case(lab, seconds):
    """Both ends' kernels cut their segments and finish their checksums themselves, as cards would: what a router
    behind a wire gets."""
    def set_all(state):
        for namespace, device in ((lab.client, "c0"), (lab.server, "s0")):
            lab.within(namespace, "ethtool", "-K", device, *(word for name in ("tso", "gso", "tx") for word in (name, state)))
    set_all("off")
    try:
        return tcp_case(lab, seconds)
    finally:
        set_all("on")


def nothing(_lab):
    pass


def loud_case(prepare, disturb, await_it=nothing):
    """Latency while something else goes on, as a multiple of that of a quiet router in the same run."""
    def case(lab, seconds):
        lab.forget()
        prepare(lab)
        fill(lab, 16, 63)
        stream = lambda meanwhile: measure(lab, 16, 63, seconds, "--rate", 20_000, meanwhile=meanwhile)
        quiet = stream(None)
        await_it(lab)
        loud = stream(lambda: disturb(lab, seconds))
        loud["quiet_us"], loud["loud_us"] = quiet["latency_us"], loud["latency_us"]
        loud["quiet_ns"] = quiet["latencies_ns"]
        loud["spike"] = loud["latency_us"][2] / quiet["latency_us"][2]
        return loud
    return case


def until(lab, seconds, action):
    """Does something again and again while packets flow, away from the router's core."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        action()


def reload(lab, seconds):
    numbers = iter(range(10_000))
    until(lab, seconds, lambda: lab.reload(next(numbers)))


def open_a_million(lab):
    fill(lab, MILLION, 63)


def open_a_million_short(lab):
    """So that they end some time after the quiet measurement does."""
    lab.let_end_soon(SHORT_PORT, SHORT_SECONDS)
    lab.pin()
    flows = MILLION * 63
    finished(send(lab, MILLION, 63, 60, "--in-order", "--count", flows, "--rate", 200_000, "--destination-port", SHORT_PORT))


def await_first_end(lab):
    """Until the first of them have ended; the others follow within as many seconds as it took to open them, and a sweep."""
    before, end = lab.sessions(), time.monotonic() + 2 * SHORT_SECONDS
    while lab.sessions() >= before and time.monotonic() < end:
        time.sleep(0.1)


def see_them_end(lab, seconds):
    """They end by themselves, of which this makes sure."""
    before = lab.sessions()
    time.sleep(seconds)
    if lab.sessions() >= before:
        sys.exit("%s: no flow ended while latency was measured" % lab.name)


def show(lab, seconds):
    until(lab, seconds, lambda: lab.show())


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


def all_flows(lab, rate):
    """A packet of each of 64,512 flows, one after the other."""
    flows = 1024 * 63
    return measure(lab, 1024, 63, flows / rate * 1.1 + 0.5, "--in-order", "--count", flows, "--rate", rate)


def validation_case(lab, _seconds):
    """Opens all flows, then sees whether every one of them passes again (RFC 9693, section 4.3)."""
    lab.forget()
    fill(lab, 1024, 63)
    return {"percent": 100 * (1 - loss(all_flows(lab, 50_000)))}


def establishment_case(lab, _seconds):
    """The highest rate of new flows at which every one is opened (section 4.4)."""
    def trial(rate):
        lab.forget()
        return all_flows(lab, rate)
    best = highest(trial, 1_000_000, 0.0, 9)
    return {"kpps": offered(best) if best else 0.0}


def throughput_case(limit):
    """The highest rate over flows that are open at which no more than `limit` is lost (section 4.5)."""
    def case(lab, seconds):
        lab.forget()
        fill(lab, 1024, 63)
        trial = lambda rate: measure(lab, 1024, 63, seconds, "--rate", rate)
        # No router in this lab forwards more.
        best = highest(trial, 4_000_000, limit, 10)
        return {"kpps": offered(best) if best else 0.0}
    return case


def teardown_case(lab, _seconds):
    """How fast all flows are ended (section 4.6)."""
    lab.forget()
    fill(lab, 1024, 63)
    start = time.monotonic()
    lab.forget()
    return {"kpps": 1024 * 63 / (time.monotonic() - start) / 1000}


def capacity_case(lab, _seconds):
    """How many flows the table holds (section 4.7): as many as it is made for, or as memory and ports allow."""
    lab.forget()
    lab.pin()
    # More than natwerk's table is made for here.
    flows = 20_000 * 63
    sent = finished(send(lab, 20_000, 63, 60, "--in-order", "--count", flows, "--rate", 100_000))
    return {"kflows": lab.sessions() / 1000, "sent": sent["packets"]}


ALL = {
    **{name: flows_case(name) for name in FLOWS}, "new": new_case, "latency": latency_case, "tcp": tcp_case,
    "tcp-frames": tcp_frames_case,
    "latency-reload": loud_case(nothing, reload), "latency-expiry": loud_case(open_a_million_short, see_them_end, await_first_end),
    "latency-show": loud_case(open_a_million, show), "validation": validation_case, "establishment": establishment_case,
    "throughput-0": throughput_case(0.0), "throughput-0.5": throughput_case(0.005), "teardown": teardown_case, "capacity": capacity_case,
}
BESIDE = {"nftables": Nftables, "bare": Bare}
SETS = {"rfc9693": RFC_9693, "loud": LOUD}


def write(arguments, lines):
    """The files that were asked for."""
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"cores": os.cpu_count(), "kernel": os.uname().release, "cases": lines}, file, indent=1)
    if arguments.svg:
        with open(arguments.svg, "w") as file:
            file.write(report.svg(lines))
    if arguments.png:
        report.png(lines, arguments.png)
    for line in lines if arguments.hgrm else ():
        for lab, histogram in line.get("latencies_ns", {}).items():
            with open(os.path.join(arguments.hgrm, "%s-%s.hgrm" % (line["case"], lab)), "w") as file:
                file.write(report.percentiles(histogram))


def stop(_signal, _frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("stopped")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--beside", choices=BESIDE, default="nftables", help="what natwerk is compared with: bare is AF_XDP without natwerk")
    parser.add_argument("--spin", action="store_true", help="natwerk's worker never sleeps")
    parser.add_argument("--shortcuts", default='"auto"', metavar="N", help="workers.shortcuts: flows of each interface that natwerk's XDP program may forward by itself")
    parser.add_argument("--hook", choices=("auto", "xdp", "tc"), default="auto", help="workers.hook: where natwerk takes packets of veths")
    parser.add_argument("--json", help="write every figure there")
    parser.add_argument("--svg", help="draw the ratios there")
    parser.add_argument("--png", help="draw them there by matplotlib (apt: python3-matplotlib)")
    parser.add_argument("--hgrm", metavar="FOLDER", help="write latencies there, as HdrHistogram's plotter reads them")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(ALL) + "; rfc9693 and loud stand for several")
    arguments = parser.parse_args()
    names = [name for given in arguments.cases or CASES for name in SETS.get(given, [given])]
    for name in names:
        if name not in ALL:
            parser.error("no case %s; there are: %s" % (name, " ".join([*ALL, *SETS])))
    folder, labs, lines = tempfile.mkdtemp(prefix="natwerk-bench-"), [], []
    # Nothing is left behind then either.
    signal.signal(signal.SIGTERM, stop)
    # Only the generator's core is left to this program: the router's is the router's.
    os.sched_setaffinity(0, {int(GENERATOR_CORE)})
    try:
        for kind in (BESIDE[arguments.beside], Natwerk):
            labs.append(kind(folder, arguments))
        with real_time():
            for name in names:
                pairs = [{lab.name: ALL[name](lab, arguments.seconds) for lab in labs} for _ in range(arguments.pairs)]
                lines.append(report.row(name, pairs))
                print(report.text(lines[-1], name in FLOWS or name == "new"), flush=True)
    finally:
        for lab in labs:
            lab.down()
        shutil.rmtree(folder, ignore_errors=True)
    write(arguments, lines)


main()
