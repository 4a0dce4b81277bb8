#!/usr/bin/env bash
# natwerk at work: a lab of namespaces, real clients, every kind of rule, and what happened.
#
#   sudo scripts/demo.sh [--keep] [--no-build]
#
# Prints a line for each check: what was tried, what was expected, what was seen. Exits 1 if any differs.
# --keep leaves the lab and the engine up; --no-build takes the program that is there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

keep=no build=yes
for argument in "$@"; do
    case $argument in
        --keep) keep=yes ;;
        --no-build) build=no ;;
        *) echo "usage: scripts/demo.sh [--keep] [--no-build]" >&2; exit 2 ;;
    esac
done
need_root || exit 1
install_missing
[ "$build" = no ] || cargo build --locked --release
NATWERK=${NATWERK:-$PWD/target/release/natwerk}
[ -x "$NATWERK" ] || { echo "there is no program at $NATWERK: run without --no-build" >&2; exit 1; }

work=$(mktemp -d /tmp/natwerk-demo.XXXXXX)
engine=""
checks=0 differ=0

in_ns() { scripts/lab.sh exec "$@"; }
natwerk() { "$NATWERK" "$@" --socket "$work/control.sock"; }

clean_up() {
    status=$?
    if [ "$keep" = yes ]; then
        echo "the lab is up: scripts/lab.sh exec nwlab-guest1 …; $NATWERK show sessions --socket $work/control.sock"
        echo "take it down with: kill $engine; scripts/lab.sh down"
        exit $status
    fi
    jobs -p | xargs -r kill 2>/dev/null || true
    wait 2>/dev/null || true
    scripts/lab.sh down >/dev/null 2>&1 || true
    rm -rf "$work"
    exit $status
}
trap clean_up EXIT

# check WHAT EXPECTED SEEN: EXPECTED is a pattern of the shell.
check() {
    checks=$((checks + 1))
    local mark="  ok  "
    # shellcheck disable=SC2053
    if [[ $3 != $2 ]]; then
        differ=$((differ + 1)) mark="DIFFER"
    fi
    printf '%s  %-62s expected %-30s seen %s\n' "$mark" "$1" "$2" "$(tr '\n' ' ' <<<"$3")"
}

get() { # get NS URL [SECONDS]: one line from a web server, or why not
    local from=()
    # The internet's clients live behind the upstream router, not on the public segment.
    [ "$1" != nwlab-inet ] || from=(--interface 198.51.100.9)
    in_ns "$1" curl -sS --max-time "${3:-3}" "${from[@]}" "$2" 2>&1 || true
}

write_rules() { # write_rules [EXTRA]: the rules, with one more port forward if EXTRA is given
    local extra=""
    [ $# = 0 ] || extra=', {"id": "p-extra", "public_ip": "203.0.113.11", "protocol": "tcp", "public_ports": "9000",
                 "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "8080"}'
    cat >"$work/rules.json.new" <<JSON
{
  "version": 1,
  "public_ips": [
    {"address": "203.0.113.10", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"},
    {"address": "203.0.113.11", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"},
    {"address": "203.0.113.12", "prefix_len": 24, "interface": "eth2", "gateway": "203.0.113.1"}
  ],
  "networks": [
    {"name": "web", "interface": "eth0", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
     "source_nat": ["203.0.113.10"], "egress_default": "allow"},
    {"name": "other", "interface": "eth1", "cidr": "10.1.1.0/24", "gateway": "10.1.1.1",
     "source_nat": ["203.0.113.10"], "egress_default": "allow"},
    {"name": "app", "domain": "shop", "interface": "eth3", "cidr": "10.2.1.0/24", "gateway": "10.2.1.1",
     "source_nat": ["203.0.113.10"], "egress_default": "allow"},
    {"name": "db", "domain": "shop", "interface": "eth4", "cidr": "10.2.2.0/24", "gateway": "10.2.2.1"}
  ],
  "network_acls": [
    {"network": "db", "direction": "ingress", "entries": [
      {"number": 10, "action": "deny", "protocol": "tcp", "ports": "5433", "cidr": "10.2.1.0/24"},
      {"number": 20, "action": "allow", "protocol": "tcp", "ports": "5432-5440", "cidr": "10.2.1.0/24"}]}
  ],
  "egress_rules": [{"id": "no-mail", "network": "web", "action": "deny", "protocol": "tcp", "ports": "25"}],
  "firewall_rules": [
    {"id": "f-range", "public_ip": "203.0.113.11", "protocol": "tcp", "ports": "2222-2230"},
    {"id": "f-web", "public_ip": "203.0.113.11", "protocol": "tcp", "ports": "80"},
    {"id": "f-9000", "public_ip": "203.0.113.11", "protocol": "tcp", "ports": "9000"},
    {"id": "f-perf", "public_ip": "203.0.113.11", "protocol": "tcp", "ports": "5201"},
    {"id": "f-perf-udp", "public_ip": "203.0.113.11", "protocol": "udp", "ports": "5201"},
    {"id": "f-other", "public_ip": "203.0.113.11", "protocol": "tcp", "ports": "8081"},
    {"id": "f-static", "public_ip": "203.0.113.12", "protocol": "tcp", "ports": "8080"},
    {"id": "f-ping", "public_ip": "203.0.113.12", "protocol": "icmp", "icmp_type": 8, "icmp_code": 0}
  ],
  "port_forwards": [
    {"id": "p-range", "public_ip": "203.0.113.11", "protocol": "tcp", "public_ports": "2222-2230",
     "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "22-30"},
    {"id": "p-perf", "public_ip": "203.0.113.11", "protocol": "tcp", "public_ports": "5201",
     "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "5201"},
    {"id": "p-other", "public_ip": "203.0.113.11", "protocol": "tcp", "public_ports": "8081",
     "network": "other", "guest_ip": "10.1.1.5", "guest_ports": "8080"},
    {"id": "p-perf-udp", "public_ip": "203.0.113.11", "protocol": "udp", "public_ports": "5201",
     "network": "web", "guest_ip": "10.1.1.5", "guest_ports": "5201"}$extra
  ],
  "static_nats": [{"id": "s1", "public_ip": "203.0.113.12", "network": "web", "guest_ip": "10.1.1.6"}],
  "load_balancers": [{"id": "l1", "public_ip": "203.0.113.11", "protocol": "tcp", "public_port": 80, "network": "web",
    "algorithm": "round-robin", "members": [{"guest_ip": "10.1.1.5", "guest_port": 8080}, {"guest_ip": "10.1.1.6", "guest_port": 8080}]}]
}
JSON
    mv "$work/rules.json.new" "$work/rules.json"
}

start_engine() {
    : >"$work/ready"
    # Each step takes the place of the one before, so that $! is the engine itself.
    (exec scripts/lab.sh exec nwlab-router "$NATWERK" run --config "$work/natwerk.toml") >"$work/ready" 2>>"$work/engine.log" &
    engine=$!
    for _ in $(seq 100); do
        grep -q '^ready' "$work/ready" && return 0
        kill -0 $engine 2>/dev/null || break
        sleep 0.1
    done
    echo "the engine did not start:" >&2
    tail -n 20 "$work/engine.log" >&2
    return 1
}

serve() { # serve NS NAME PORT...
    local ns=$1
    shift
    in_ns "$ns" python3 scripts/lab-server.py "$@" >/dev/null 2>&1 &
}

cpu_ticks() { # what the engine has used, in hundredths of a second
    sed 's/.*) //' "/proc/$engine/stat" | awk '{ print $12 + $13 }'
}

fetch_slowly() { # fetch_slowly FILE: 24 MB at 4 MB/s from guest 1, in the background
    in_ns nwlab-guest1 curl -sS --max-time 60 --limit-rate 4M -o "$1" http://198.51.100.9/bytes/25165824 &
    transfer=$!
}

echo "== the lab"
scripts/lab.sh up
cat >"$work/natwerk.toml" <<TOML
rules = ["$work/rules.json"]
state_dir = "$work/state"
control_socket = "$work/control.sock"
manage_addresses = true

[[interface]]
name = "eth2"
role = "public"

[[interface]]
name = "eth0"
role = "guest"

[[interface]]
name = "eth1"
role = "guest"

[[interface]]
name = "eth3"
role = "guest"

[[interface]]
name = "eth4"
role = "guest"
TOML
write_rules
"$NATWERK" check --config "$work/natwerk.toml"
start_engine
cat "$work/ready"
serve nwlab-inet internet 80 25
serve nwlab-guest1 guest1 22 23 30 8080
serve nwlab-guest2 guest2 8080 81
serve nwlab-other other 8080
serve nwlab-db db 5432 5433 80
in_ns nwlab-inet iperf3 -s -B 198.51.100.9 >/dev/null 2>&1 &
in_ns nwlab-inet iperf3 -s -B 198.51.100.9 -p 5202 >/dev/null 2>&1 &
in_ns nwlab-guest1 iperf3 -s >/dev/null 2>&1 &
in_ns nwlab-inet dnsmasq -k --no-resolv --no-hosts --bind-interfaces --listen-address=198.51.100.9 --port=53 \
    --address=/natwerk.test/198.51.100.9 --pid-file= >/dev/null 2>&1 &
sleep 1

echo "== source NAT"
check "ping from guest 1 to the internet" "*3 received*" "$(in_ns nwlab-guest1 ping -c 3 -i 0.2 -W 2 198.51.100.9 2>&1 | grep received || true)"
check "curl from guest 1: the server sees the public address" "internet:80 sees 203.0.113.10:*" "$(get nwlab-guest1 http://198.51.100.9/)"
check "dig from guest 1" "198.51.100.9" "$(in_ns nwlab-guest1 dig +short +tries=1 +time=3 @198.51.100.9 natwerk.test 2>&1 || true)"
perf() { # perf NS ARGS...: megabits per second at the receiver
    in_ns "$@" --json --time 2 2>/dev/null | jq -r '(.end.sum_received // .end.sum).bits_per_second / 1e6 | floor' 2>/dev/null || echo none
}
faster() { [[ $2 =~ ^[0-9]+$ && $2 -gt $1 ]] && echo "over $1 Mbit/s ($2)" || echo "$2 Mbit/s"; }
check "iperf3 TCP out" "over 100 Mbit/s*" "$(faster 100 "$(perf nwlab-guest1 iperf3 -c 198.51.100.9)")"
check "iperf3 TCP in (reverse)" "over 100 Mbit/s*" "$(faster 100 "$(perf nwlab-guest1 iperf3 -c 198.51.100.9 -R)")"
check "iperf3 UDP out, 20 Mbit/s" "over 15 Mbit/s*" "$(faster 15 "$(perf nwlab-guest1 iperf3 -u -b 20M -c 198.51.100.9)")"
check "iperf3 UDP in, through a port forward" "over 15 Mbit/s*" "$(faster 15 "$(perf nwlab-inet iperf3 -u -b 20M -B 198.51.100.9 -c 203.0.113.11)")"

echo "== port forwards, load balancer, static NAT"
check "forwarded range, first port" "guest1:22 sees 198.51.100.9:*" "$(get nwlab-inet http://203.0.113.11:2222/)"
by_nc=$(printf 'GET / HTTP/1.0\r\n\r\n' | in_ns nwlab-inet nc -s 198.51.100.9 -w 3 203.0.113.11 2230 2>&1 || true)
check "forwarded range, last port, with nc" "guest1:30 sees 198.51.100.9:*" "$(tail -n 1 <<<"$by_nc")"
both=$(for _ in 1 2 3 4; do get nwlab-inet http://203.0.113.11/; done | cut -d: -f1 | sort | uniq -c | tr -s ' ' | tr '\n' ',')
check "load balancer, four connections" " 2 guest1, 2 guest2," "$both"
check "static NAT, in" "guest2:8080 sees 198.51.100.9:*" "$(get nwlab-inet http://203.0.113.12:8080/)"
check "static NAT, out" "internet:80 sees 203.0.113.12:*" "$(get nwlab-guest2 http://198.51.100.9/)"
check "static NAT, ping in" "*2 received*" "$(in_ns nwlab-inet ping -I 198.51.100.9 -c 2 -i 0.2 -W 2 203.0.113.12 2>&1 | grep received || true)"

echo "== what must not pass"
check "a port the firewall does not open" "*timed out*" "$(get nwlab-inet http://203.0.113.12:81/ 2)"
check "mail from a guest, denied by an egress rule" "*timed out*" "$(get nwlab-guest1 http://198.51.100.9:25/ 2)"

echo "== hairpin"
check "guest 2 to a forward of guest 1" "guest1:23 sees 203.0.113.12:*" "$(get nwlab-guest2 http://203.0.113.11:2223/)"
check "guest 1 to the static NAT of guest 2" "guest2:8080 sees 203.0.113.10:*" "$(get nwlab-guest1 http://203.0.113.12:8080/)"
check "guest 1 to its own forward" "guest1:22 sees 203.0.113.10:*" "$(get nwlab-guest1 http://203.0.113.11:2222/)"

echo "== two tenants with the same addresses, at once"
perf nwlab-guest1 iperf3 -c 198.51.100.9 >"$work/one" &
one=$!
perf nwlab-other iperf3 -c 198.51.100.9 -p 5202 >"$work/other" &
other=$!
check "curl from the first 10.1.1.5" "internet:80 sees 203.0.113.10:*" "$(get nwlab-guest1 http://198.51.100.9/)"
check "curl from the other 10.1.1.5" "internet:80 sees 203.0.113.10:*" "$(get nwlab-other http://198.51.100.9/)"
wait $one $other || true
check "iperf3 TCP of the first" "over 50 Mbit/s*" "$(faster 50 "$(cat "$work/one")")"
check "iperf3 TCP of the other" "over 50 Mbit/s*" "$(faster 50 "$(cat "$work/other")")"
check "a forward to the other 10.1.1.5" "other:8080 sees 198.51.100.9:*" "$(get nwlab-inet http://203.0.113.11:8081/)"
check "the other tenant, to a forward of the first" "guest1:22 sees 203.0.113.10:*" "$(get nwlab-other http://203.0.113.11:2222/)"

echo "== tiers of a VPC, and the ACL between them"
check "from one tier to the other, not translated" "db:5432 sees 10.2.1.5:*" "$(get nwlab-app http://10.2.2.5:5432/)"
check "a port that an earlier entry denies" "*timed out*" "$(get nwlab-app http://10.2.2.5:5433/ 2)"
check "a port that no entry allows" "*timed out*" "$(get nwlab-app http://10.2.2.5:80/ 2)"
check "another tenant, to a tier" "*timed out*" "$(get nwlab-guest1 http://10.2.2.5:5432/ 2)"
check "from a tier to the internet" "internet:80 sees 203.0.113.10:*" "$(get nwlab-app http://198.51.100.9/)"
check "from the tier without source NAT to the internet" "*timed out*" "$(get nwlab-db http://198.51.100.9/ 2)"

echo "== changes under a running transfer"
wanted=$(python3 -c 'import sys; sys.argv=["",""]; exec(open("scripts/lab-server.py").read().split("class Handler")[0]); n=25165824; print(hashlib.sha256((BLOCK*(n//len(BLOCK)+1))[:n]).hexdigest())')
check "a port before its rule" "*timed out*" "$(get nwlab-inet http://203.0.113.11:9000/ 2)"
fetch_slowly "$work/reload.bin"
sleep 1
write_rules extra
natwerk reload
check "the port after the reload" "guest1:8080 sees 198.51.100.9:*" "$(get nwlab-inet http://203.0.113.11:9000/)"
wait $transfer || true
check "the transfer went on through the reload" "$wanted" "$(sha256sum <"$work/reload.bin" | cut -d' ' -f1)"
fetch_slowly "$work/crash.bin"
sleep 1
kill -9 "$engine"
wait "$engine" 2>/dev/null || true
start_engine
wait $transfer || true
check "the transfer went on through kill -9 and restart" "$wanted" "$(sha256sum <"$work/crash.bin" | cut -d' ' -f1)"
write_rules
natwerk reload
check "the port after its rule is gone" "*timed out*" "$(get nwlab-inet http://203.0.113.11:9000/ 2)"

echo "== nothing to do"
before=$(cpu_ticks)
sleep 5
check "the engine's CPU time in five idle seconds, in 1/100 s" "[0-4]" $(($(cpu_ticks) - before))

echo "== what natwerk counted"
natwerk show rules
natwerk show drops
natwerk show workers
echo
echo "$checks checks, $differ differ"
[ $differ = 0 ]
