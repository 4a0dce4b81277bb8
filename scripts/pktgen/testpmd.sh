#!/usr/bin/env bash
# DPDK's testpmd as a guest on any interface of the kernel (net_af_packet): one UDP flow, as fast as it goes.
#
#   sudo scripts/pktgen/testpmd.sh --interface c0 --router-mac 02:00:00:00:00:01 [--namespace NAME]
#        [--seconds 5] [--host 10.16.0.2] [--remote 203.0.113.1] [--cores 0,1]
#
# What it shows at the end is what it handed to the kernel. Takes dpdk-dev from apt.
set -euo pipefail

interface="" router_mac="" namespace="" seconds=5 host=10.16.0.2 remote=203.0.113.1 cores=0,1
while [ $# -gt 0 ]; do
    case $1 in
        --interface | --router-mac | --namespace | --seconds | --host | --remote | --cores)
            [ $# -ge 2 ] || { echo "$1 takes a value" >&2; exit 2; }
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift 2
            ;;
        -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "unknown: $1 (see --help)" >&2; exit 2 ;;
    esac
done
[ -n "$interface" ] && [ -n "$router_mac" ] || { echo "--interface and --router-mac are needed (see --help)" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "skipped: testpmd takes root" >&2; exit 77; }
program=$(command -v dpdk-testpmd || command -v testpmd) || { echo "skipped: no testpmd (apt-get install dpdk-dev)" >&2; exit 77; }

within=()
[ -z "$namespace" ] || within=(ip netns exec "$namespace")
# Standard input held open for as long as it is to send; the end of it stops testpmd.
sleep "$seconds" | "${within[@]}" "$program" -l "$cores" --no-huge -m 512 --no-pci --file-prefix "natwerk-$$" \
    --vdev="net_af_packet0,iface=$interface" -- \
    --forward-mode=txonly --eth-peer="0,$router_mac" --tx-ip="$host,$remote" --tx-udp=1024,8080 \
    --txpkts=60 --no-lsc-interrupt --total-num-mbufs=8192 --stats-period=0 --auto-start
