#!/usr/bin/env bash
# Linux's own packet generator (the pktgen module), as guests in CSIT's NAT44 shapes: hosts x 63 UDP source ports.
#
#   sudo scripts/pktgen/kernel.sh --interface eth1 --router-mac 52:54:00:12:34:56 [--hosts 1024] [--size 64]
#        [--first-host 10.16.0.2] [--remote 203.0.113.1] [--threads 1] [--seconds 10] [--rate PACKETS_PER_SECOND]
#
# It sends what guests send; count what arrives behind the router with `natwerk generate receive` or the card's counters.
# Sizes count the checksum sequence, as in RFC 2544; pktgen's do not.
set -euo pipefail

interface="" router_mac="" hosts=1024 size=64 first_host=10.16.0.2 remote=203.0.113.1 threads=1 seconds=10 rate=0
while [ $# -gt 0 ]; do
    case $1 in
        --interface | --router-mac | --hosts | --size | --first-host | --remote | --threads | --seconds | --rate)
            [ $# -ge 2 ] || { echo "$1 takes a value" >&2; exit 2; }
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift 2
            ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "unknown: $1 (see --help)" >&2; exit 2 ;;
    esac
done
[ -n "$interface" ] && [ -n "$router_mac" ] || { echo "--interface and --router-mac are needed (see --help)" >&2; exit 2; }

[ "$(id -u)" = 0 ] || { echo "skipped: pktgen takes root" >&2; exit 77; }
[ -d /proc/net/pktgen ] || modprobe pktgen 2>/dev/null || true
[ -d /proc/net/pktgen ] || { echo "skipped: this kernel has no pktgen module" >&2; exit 77; }

# say FILE COMMAND: pktgen answers in the file that it was told through.
say() {
    echo "$2" >"/proc/net/pktgen/$1"
    grep -q '^Result: OK' "/proc/net/pktgen/$1" || { grep '^Result:' "/proc/net/pktgen/$1" >&2; exit 1; }
}

# address FIRST PLACES: the address that lies so many places behind FIRST.
address() {
    local a b c d number
    IFS=. read -r a b c d <<<"$1"
    number=$(((a << 24 | b << 16 | c << 8 | d) + $2))
    echo "$((number >> 24 & 255)).$((number >> 16 & 255)).$((number >> 8 & 255)).$((number & 255))"
}

last_host=$(address "$first_host" $((hosts - 1)))
devices=()
for ((thread = 0; thread < threads; thread++)); do
    echo rem_device_all >"/proc/net/pktgen/kpktgend_$thread"
    device=$interface@$thread
    echo "add_device $device" >"/proc/net/pktgen/kpktgend_$thread"
    say "$device" "count 0"
    say "$device" "clone_skb 0"
    say "$device" "pkt_size $((size - 4))"
    say "$device" "dst_mac $router_mac"
    say "$device" "src_min $first_host"
    say "$device" "src_max $last_host"
    say "$device" "dst_min $remote"
    say "$device" "dst_max $remote"
    say "$device" "udp_src_min 1024"
    # The last port is not sent from.
    say "$device" "udp_src_max $((1024 + 63))"
    say "$device" "udp_dst_min 8080"
    say "$device" "udp_dst_max 8080"
    say "$device" "flag IPSRC_RND"
    say "$device" "flag UDPSRC_RND"
    say "$device" "flag UDPCSUM"
    [ "$rate" = 0 ] || say "$device" "ratep $((rate / threads))"
    devices+=("$device")
done

# Writing "start" returns when all is sent or "stop" is said.
echo start >/proc/net/pktgen/pgctrl &
starter=$!
sleep "$seconds"
echo stop >/proc/net/pktgen/pgctrl
wait "$starter" || true
for device in "${devices[@]}"; do
    sed -n '/^Result:/,$p' "/proc/net/pktgen/$device" | sed "s|^|$device: |"
done
