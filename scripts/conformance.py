#!/usr/bin/env python3
"""Writes docs/conformance.md from the list of requirements and two runs of natprobe, natwerk's and Linux's.

    scripts/natprobe.sh --slow --json /tmp/natwerk.json
    $NATPROBE/natprobe.py --driver linux-nft --slow --json /tmp/linux.json
    scripts/conformance.py REQUIREMENTS.md /tmp/natwerk.json --linux /tmp/linux.json [NOTE] >docs/conformance.md

NOTE says what has to be known of the runs, such as which build was played. Without a run of Linux its column
is what the list of requirements says of it.

A requirement is met when every scenario that shows it passed; "not yet" names those that failed or were not asked.
Tests of tests/conformance are linked where they say that they show a requirement, and do where no scenario was played.
Requirements with neither have their state in STATED.
"""
import json
import os
import re
import sys

STATED = {
    "R-021": ("not applicable", "RFC 4787 promises nothing here"),
    "R-155": ("met", "`show mappings`, `show pools`, `show drops`, `[timeouts]`; names follow RFC 8512"),
    "R-156": ("met", "`[events]`, `tests/events.rs`: 4, 5, 8, 9, 12, 13, decoded by a collector; there are no address pools without ports, blocks or thresholds to tell of"),
    "R-157": ("met", "nothing is logged per session"),
    "R-158": ("met", "`tests/clients.rs`: coturn's client finds the mapping and each filtering that is configured; MAP-04, FLT-02 to 04"),
    "R-159": ("not applicable", "the control plane is the interface, not PCP"),
}


def requirements(path):
    """id, requirement, level, source, Linux, scenarios of each row of the tables of part (a)."""
    for line in open(path):
        cells = [c.strip() for c in line.strip().strip("|").split(" | ")]
        if re.match(r"\|? ?R-\d{3}", line.strip().lstrip("| ")) and len(cells) >= 9:
            yield cells[0].lstrip("| "), cells[1], cells[2], cells[3], cells[5], cells[-1].rstrip("| ")


def tests():
    """The tests that say which requirements they show, by requirement: name and place."""
    shown = {}
    folder = os.path.join(os.path.dirname(__file__), "..", "tests", "conformance")
    for name in sorted(os.listdir(folder)):
        ids = []
        for line in open(os.path.join(folder, name)):
            if line.startswith("/// Shows "):
                ids = re.findall(r"R-\d{3}", line)
            named = re.match(r"fn (\w+)\(", line)
            if named:
                for rid in ids:
                    link = "[%s](../tests/conformance/%s)" % (named.group(1), name)
                    shown.setdefault(rid, []).append(link)
                ids = []
    return shown


def played_by(path):
    return {r["id"]: r for r in json.load(open(path))["results"]}


def of_linux(ids, linux):
    """What a run of Linux shows of a requirement with these scenarios; None if none was played."""
    asked = [i for i in ids if i in linux and linux[i]["result"] != "SKIP"]
    failed = [i for i in asked if linux[i]["result"] != "PASS"]
    if not asked:
        return None
    if not failed:
        return "pass"
    return "%s %s" % ("FAIL" if len(failed) == len(asked) else "part: FAIL", " ".join(failed))


def main():
    arguments = sys.argv[1:]
    linux_results = None
    if "--linux" in arguments:
        place = arguments.index("--linux")
        linux_results = played_by(arguments[place + 1])
        del arguments[place:place + 2]
    rows = list(requirements(arguments[0]))
    results = played_by(arguments[1])
    shown = tests()
    counts = {}
    out = []
    for rid, text, level, source, linux, scenarios in rows:
        ids = re.findall(r"\b[A-Z0-9]{3}-\d{2}\b", scenarios)
        if linux_results is not None:
            linux = of_linux(ids, linux_results) or (linux if linux == "–" else linux + " (listed)")
        played = [i for i in ids if i in results and results[i]["result"] != "SKIP"]
        if rid in STATED:
            state, why = STATED[rid]
        elif not played and rid in shown:
            state, why = "met", ""
        elif not played:
            state, why = "not yet", "no scenario was played: " + (" ".join(ids) or "none exists")
        else:
            failed = [i for i in played if results[i]["result"] != "PASS"]
            state = "not yet" if failed else "met"
            why = " ".join(("**%s fails**" % i) if i in failed else i for i in played)
        why = " ".join([why] + shown.get(rid, [])).strip()
        counts[state] = counts.get(state, 0) + 1
        out.append("| %s | %s | %s | %s | %s | %s | %s |" % (rid, text, level, source, state, why, linux))
    passed = sum(r["result"] == "PASS" for r in results.values())
    print("# Which requirements natwerk meets\n")
    print("Written by `scripts/conformance.py` from the requirements' list and a run of natprobe's scenarios (`scripts/natprobe.sh`):")
    print("%d of %d scenarios passed, %d failed, %d were not asked. `scripts/test.sh` plays them. The last column is what Linux with"
          % (passed, len(results), sum(r["result"] == "FAIL" for r in results.values()), sum(r["result"] == "SKIP" for r in results.values())))
    print("nftables does with the same scenarios. The names are tests of `tests/conformance/`, packet by\npacket through the pipeline.\n")
    if linux_results is not None:
        counts_of_linux = [sum(r["result"] == word for r in linux_results.values()) for word in ("PASS", "FAIL", "SKIP")]
        print("Linux with the rules a careful operator would load: %d scenarios passed, %d failed, %d were not asked." % tuple(counts_of_linux))
        print("Where no scenario of the run shows a requirement, the column is what the list says (`listed`).\n")
    if len(arguments) > 2:
        print(arguments[2] + "\n")
    print("Requirements: " + ", ".join("%d %s" % (counts[k], k) for k in sorted(counts)) + ".\n")
    print("| id | requirement | level | source | natwerk | shown by | Linux nftables |\n|---|---|---|---|---|---|---|")
    print("\n".join(out))


if __name__ == "__main__":
    main()
