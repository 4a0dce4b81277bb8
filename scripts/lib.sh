#!/usr/bin/env bash
# What the scripts share; sourced, not run.

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    RED=$'\e[31m' GREEN=$'\e[32m' YELLOW=$'\e[33m' BOLD=$'\e[1m' PLAIN=$'\e[0m'
else
    RED="" GREEN="" YELLOW="" BOLD="" PLAIN=""
fi
# shellcheck disable=SC2034
readonly RED GREEN YELLOW BOLD PLAIN

# What it takes to make a lab and look into it.
LAB_PACKAGES=(iproute2 procps ethtool iputils-ping curl bind9-dnsutils dnsmasq-base haproxy iperf3 jq
    keepalived netcat-openbsd openssh-client openssh-server python3 tcpdump udhcpc)
# Real clients that tests/clients.rs asks.
CLIENT_PACKAGES=(coturn sip-tester wireguard-go wireguard-tools strongswan-charon strongswan-swanctl
    libcharon-extra-plugins libstrongswan-standard-plugins)
# What it takes to build natwerk (docs/decisions.md says which part needs which).
BUILD_PACKAGES=(gcc libc6-dev linux-libc-dev make pkg-config m4 clang libclang-dev libbpf-dev
    libelf-dev zlib1g-dev ca-certificates)

# need_root: succeeds for root; otherwise says why not and fails. The words are those test.sh looks for.
need_root() {
    [ "$(id -u)" = 0 ] && return 0
    echo "skipped: ${0##*/} makes network namespaces and needs root (run it with sudo)"
    return 1
}

# install_missing [PACKAGE...]: installs what is not there; without arguments, what building and the lab need.
install_missing() {
    local package missing=()
    [ $# -gt 0 ] || set -- "${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}"
    command -v dpkg-query >/dev/null || { echo "not a Debian system: installing nothing; it takes $*" >&2; return 0; }
    for package in "$@"; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
            "install ok installed" | "hold ok installed") ;;
            *) missing+=("$package") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "missing, and only root can install: apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return 0
    # The package lists may be missing or old.
    apt-get update -qq >&2
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# install_clients: installs the clients; coturn's package starts a server that nobody here wants.
install_clients() {
    local had_coturn=""
    command -v turnserver >/dev/null && had_coturn=yes
    install_missing "${CLIENT_PACKAGES[@]}" || return 1
    if [ -z "$had_coturn" ] && command -v systemctl >/dev/null; then
        systemctl disable --now coturn >/dev/null 2>&1 || true
    fi
}
