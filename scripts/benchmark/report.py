"""The report: a table, plots, and latencies as HdrHistogram writes them."""
import statistics
import sys

# What each lab is called in words. natwerk comes second.
NAMES = {"nft": "nftables", "bare": "bare AF_XDP", "natwerk": "natwerk"}
UNITS = {
    "latency": ("us p50", None, "lower"), "tcp": ("Mbit/s", "mbit_per_second", "higher"),
    "tcp-frames": ("Mbit/s", "mbit_per_second", "higher"), "validation": ("% pass", "percent", "higher"),
    "establishment": ("k/s", "kpps", "higher"), "teardown": ("k/s", "kpps", "higher"), "capacity": ("k flows", "kflows", "higher"),
    "latency-reload": ("x quiet", "spike", "lower"), "latency-expiry": ("x quiet", "spike", "lower"), "latency-show": ("x quiet", "spike", "lower"),
}


def spread(values, digits=0):
    return "%.*f (%.*f-%.*f)" % (digits, statistics.median(values), digits, min(values), digits, max(values))


def row(name, pairs):
    """A line of the report: the case, both, and how natwerk compares."""
    (unit, key, better) = UNITS.get(name, ("kpps", "kpps", "higher"))
    value = (lambda one: one["latency_us"][0]) if key is None else (lambda one: one[key])
    labs = list(pairs[0])
    values = {who: [value(pair[who]) for pair in pairs] for who in labs}
    # A search that found no rate at all has no ratio to anything.
    ratios = [after / (before or float("nan")) for before, after in zip(*values.values())]
    line = {"case": name, "unit": unit, "better": better, "labs": labs, "values": values, "ratios": ratios}
    for cost in ("core_us_per_packet", "core_busy", "router_bound", "lost_in_front", "lost_behind", "quiet_us", "loud_us"):
        if all(cost in pair[who] for pair in pairs for who in labs):
            line[cost] = {who: [pair[who][cost] for pair in pairs] for who in labs}
    for histograms in ("latencies_ns", "quiet_ns"):
        if any(histograms in pair[who] for pair in pairs for who in labs):
            line[histograms] = {who: merged(pair[who][histograms] for pair in pairs) for who in labs}
    if "latencies_ns" in line:
        line["percentiles_us"] = {who: [pair[who]["latency_us"] for pair in pairs] for who in labs}
    return line


def merged(histograms):
    """One histogram of several."""
    counts = {}
    for histogram in histograms:
        for start, count in histogram:
            counts[start] = counts.get(start, 0) + count
    return sorted(counts.items())


def quantile_us(histogram, share):
    """The value that this share of a histogram does not exceed."""
    left = share * sum(count for _, count in histogram)
    for start, count in histogram:
        left -= count
        if left <= 0:
            return start / 1000
    return float("nan")


def bound(line):
    """Whether the routers set the pace."""
    words = []
    for who, is_bound in line["router_bound"].items():
        if not all(is_bound):
            words.append("%s set the pace in %d of %d runs only" % (NAMES[who], sum(is_bound), len(is_bound)))
    return "; ".join(words) or "both routers set the pace in every run"


def text(line, is_rate):
    """The line as an operator reads it."""
    digits = 2 if line["unit"] == "x quiet" else 0
    words = "%-14s %-7s" % (line["case"], line["unit"])
    for who, values in line["values"].items():
        words += " %s %-22s" % (NAMES[who], spread(values, digits))
    words += " ratio %s" % spread(line["ratios"], 2)
    if "core_us_per_packet" in line:
        for name, cost, scale in (("router us/packet", "core_us_per_packet", 1), ("busy %", "core_busy", 100)):
            words += "   %s %.2f / %.2f" % (name, *(scale * statistics.median(line[cost][who]) for who in line["labs"]))
        if is_rate:
            words += "   " + bound(line)
    for who in line["labs"] if "quiet_us" in line else ():
        quiet, loud = ([statistics.median(values[place] for values in line[which][who]) for place in range(3)]
                       for which in ("quiet_us", "loud_us"))
        words += "   %s p50 %.0f to %.0f, p99 %.0f to %.0f, p99.9 %.0f to %.0f us" % (
            who, *(value for both in zip(quiet, loud) for value in both))
        # The highest thousandth of one run is a few dozen packets.
        quiet, loud = (quantile_us(line[which][who], 0.999) for which in ("quiet_ns", "latencies_ns"))
        words += ", p99.9 of all runs together %.0f to %.0f us (%.2f)" % (quiet, loud, loud / quiet)
    if line["case"] == "latency":
        for who in line["labs"]:
            p99, p999 = (statistics.median(values[place] for values in line["percentiles_us"][who]) for place in (1, 2))
            words += "   %s p99 %.0f p99.9 %.0f" % (who, p99, p999)
    return words


def percentiles(histogram):
    """HdrHistogram's percentile distribution, which its plotter reads: value in microseconds, percentile, count so far."""
    total, seen = sum(count for _, count in histogram), 0
    lines = ["%12s %14s %10s %14s\n" % ("Value", "Percentile", "TotalCount", "1/(1-Percentile)")]
    for start, count in histogram:
        seen += count
        share = seen / total
        lines.append("%12.3f %14.12f %10d %14s" % (start / 1000, share, seen, "inf" if seen == total else "%.2f" % (1 / (1 - share))))
    mean = sum(start * count for start, count in histogram) / total / 1000
    lines.append("#[Mean    = %12.3f, Total count = %d]" % (mean, total))
    lines.append("#[Max     = %12.3f]" % (histogram[-1][0] / 1000))
    return "\n".join(lines) + "\n"


def svg(lines):
    """A bar for each case: natwerk's ratio to nftables."""
    bars = [(line["case"], statistics.median(line["ratios"]), line["better"]) for line in lines]
    scale = 400 / max([2.0] + [ratio for _, ratio, _ in bars if ratio == ratio])
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="680" height="%d" font-family="sans-serif" font-size="13">' % (30 * len(bars) + 40),
           '<text x="10" y="20">natwerk as a multiple of the other (1 is equal)</text>']
    for place, (name, ratio, better) in enumerate(bars):
        y = 34 + 30 * place
        shown = ratio if ratio == ratio else 0.0
        out.append('<text x="10" y="%d">%s</text><rect x="130" y="%d" width="%.1f" height="18" fill="#4a7"/>'
                   '<text x="%.1f" y="%d">%.2f%s</text>' % (y + 14, name, y, shown * scale, 136 + shown * scale, y + 14, ratio,
                                                          " (lower is better)" if better == "lower" else ""))
    out.append('<line x1="%.1f" x2="%.1f" y1="30" y2="%d" stroke="#333"/></svg>' % (130 + scale, 130 + scale, 34 + 30 * len(bars)))
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
    axes.set_xlabel("natwerk as a multiple of the other (1 is equal)")
    figure.savefig(path, dpi=120)
