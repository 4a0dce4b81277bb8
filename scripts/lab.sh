#!/usr/bin/env bash
# A lab of network namespaces on this machine: an internet, a router, guests.
#
#   sudo scripts/lab.sh up              makes it, afresh if it is there
#   sudo scripts/lab.sh down            takes it away, processes in it included
#   sudo scripts/lab.sh exec NS CMD…    runs CMD in NS (nwlab-guest1, or guest1 for short)
#   sudo scripts/lab.sh status          says what is there
#
#   nwlab-inet                    nwlab-router                    nwlab-switch    nwlab-guest1  10.1.1.5
#   198.51.100.0/24, all of it    eth2 public     eth0 guests ─── a bridge ────── nwlab-guest2  10.1.1.6
#   203.0.113.1 ───────────────── 203.0.113.0/24  10.1.1.1/24
#                                                 eth1 guests ─────────────────── nwlab-other   10.1.1.5
#                                                 eth3 a tier ─────────────────── nwlab-app     10.2.1.5
#                                                 eth4 a tier ─────────────────── nwlab-db      10.2.2.5
#
# nwlab-other is another tenant, with the first one's addresses; nwlab-app and nwlab-db are in one VPC. The router's interfaces are up and bare:
# natwerk puts its addresses there (manage_addresses). Its kernel does not forward. Offloads are as the
# kernel sets them, so guests leave checksums unfinished. LAB_QUEUES=N gives the router's interfaces N
# queues (one if unset), LAB_MTU another MTU.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

readonly PREFIX=nwlab
readonly NAMESPACES=(inet router switch guest1 guest2 other app db)
readonly DNS=198.51.100.9
readonly QUEUES=${LAB_QUEUES:-1}
readonly MTU=${LAB_MTU:-1500}

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# full NAME: the namespace's name, whether given in full or short.
full() { case $1 in "$PREFIX"-*) echo "$1" ;; *) echo "$PREFIX-$1" ;; esac; }

# ip_in NS ARGS…: ip inside a namespace.
ip_in() { ip -n "$(full "$1")" "${@:2}"; }

# run_in NS CMD…: a command inside a namespace.
run_in() { ip netns exec "$(full "$1")" "${@:2}"; }

exists() { [ -e "/run/netns/$(full "$1")" ]; }

# cable NS NAME MAC NS NAME MAC: a virtual cable, both ends up. The first end gets the lab's queues.
cable() {
    ip_in "$1" link add "$2" mtu "$MTU" address "$3" numtxqueues "$QUEUES" numrxqueues "$QUEUES" type veth \
        peer name "$5" mtu "$MTU" address "$6" netns "$(full "$4")" numtxqueues "$QUEUES" numrxqueues "$QUEUES"
    ip_in "$1" link set "$2" up
    ip_in "$4" link set "$5" up
}

make_namespace() {
    local name
    name=$(full "$1")
    ip netns add "$name"
    run_in "$1" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    ip_in "$1" link set lo up
    mkdir -p "/etc/netns/$name"
    printf 'nameserver %s\noptions timeout:2 attempts:2\n' "$DNS" >"/etc/netns/$name/resolv.conf"
}

make_guest() { # make_guest NS ADDRESS
    ip_in "$1" address add "$2/24" dev eth0
    ip_in "$1" route add default via "${2%.*}.1"
}

up() {
    need_root || exit 1
    install_missing "${LAB_PACKAGES[@]}"
    down
    trap '[ $? = 0 ] || { echo "the lab could not be made; taking it away again" >&2; down; }' EXIT
    local ns
    for ns in "${NAMESPACES[@]}"; do make_namespace "$ns"; done

    # The internet speaks as one of its hosts, not as the upstream router that it also is.
    cable router eth2 02:4e:00:00:00:02 inet eth0 02:4e:00:00:00:01
    run_in inet sysctl -qw net.ipv4.conf.all.arp_announce=2
    ip_in inet address add "$DNS/24" dev lo
    ip_in inet address add 203.0.113.1/24 dev eth0
    ip_in inet route replace 203.0.113.0/24 dev eth0 src "$DNS"

    ip_in switch link add br0 type bridge
    ip_in switch link set br0 up
    cable router eth0 02:4e:00:01:00:01 switch router 02:4e:00:01:01:01
    cable guest1 eth0 02:4e:00:01:00:05 switch guest1 02:4e:00:01:01:05
    cable guest2 eth0 02:4e:00:01:00:06 switch guest2 02:4e:00:01:01:06
    for ns in router guest1 guest2; do ip_in switch link set "$ns" master br0; done
    cable router eth1 02:4e:00:02:00:01 other eth0 02:4e:00:02:00:05
    cable router eth3 02:4e:00:03:00:01 app eth0 02:4e:00:03:00:05
    cable router eth4 02:4e:00:04:00:01 db eth0 02:4e:00:04:00:05
    make_guest guest1 10.1.1.5
    make_guest guest2 10.1.1.6
    make_guest other 10.1.1.5
    make_guest app 10.2.1.5
    make_guest db 10.2.2.5

    # The router's own connections take few ports, so that guests may keep theirs.
    run_in router sysctl -qw net.ipv4.ip_local_port_range='61000 65535'
    # The router's own way out, once natwerk has put addresses there.
    run_in router sysctl -qw net.ipv4.ip_forward=0
    ip_in router route add default via 203.0.113.1 dev eth2 onlink
    trap - EXIT
    echo "the lab is up: $(printf "$PREFIX-%s " "${NAMESPACES[@]}")"
}

# Ends what runs in a namespace: politely, then not.
end_processes() {
    local ns=$1 signal pids
    for signal in TERM KILL; do
        pids=$(ip netns pids "$(full "$ns")" 2>/dev/null | grep -vx "$$" || true)
        [ -n "$pids" ] || return 0
        # shellcheck disable=SC2086
        kill -s "$signal" $pids 2>/dev/null || true
        for _ in $(seq 20); do
            [ -n "$(ip netns pids "$(full "$ns")" 2>/dev/null)" ] || return 0
            sleep 0.1
        done
    done
}

down() {
    need_root || exit 1
    local ns name
    for ns in "${NAMESPACES[@]}"; do
        exists "$ns" || continue
        end_processes "$ns"
    done
    for ns in "${NAMESPACES[@]}"; do
        name=$(full "$ns")
        if exists "$ns"; then ip netns del "$name"; fi
        rm -rf "/etc/netns/${name:?}"
    done
    rmdir /etc/netns 2>/dev/null || true
}

execute() {
    [ $# -ge 2 ] || usage
    need_root || exit 1
    exists "$1" || { echo "there is no namespace $(full "$1"): run scripts/lab.sh up, or name one of ${NAMESPACES[*]}" >&2; exit 1; }
    # The command takes this process's place: a signal to the one is a signal to the other.
    cd "$OLDPWD" 2>/dev/null || true
    exec ip netns exec "$(full "$1")" "${@:2}"
}

status() {
    local ns
    for ns in "${NAMESPACES[@]}"; do
        exists "$ns" || { echo "$(full "$ns"): not there"; continue; }
        echo "${BOLD}$(full "$ns")${PLAIN}"
        ip_in "$ns" -br address | sed 's/^/    /'
    done
}

case ${1:-} in
    up) up ;;
    down) down ;;
    exec) execute "${@:2}" ;;
    status) status ;;
    *) usage ;;
esac
