-- DPDK's Pktgen as guests in CSIT's NAT44 shapes: 1,024 hosts x 63 UDP source ports on port 0, 64-byte frames.
--
--   pktgen -l 0-1 -n 2 -- -P -m '1.0' -f scripts/pktgen/nat44.lua
--
-- Other shapes by environment variables: NATWERK_HOSTS, NATWERK_SIZE, NATWERK_RATE (percent of the line rate),
-- NATWERK_SECONDS, NATWERK_ROUTER_MAC, NATWERK_OWN_MAC, NATWERK_FIRST_HOST, NATWERK_REMOTE.
package.path = package.path .. ";?.lua;test/?.lua;app/?.lua;"
require "Pktgen"

local function setting(name, default)
    return os.getenv("NATWERK_" .. name) or default
end

-- The address that lies `places` behind `text`.
local function address(text, places)
    local a, b, c, d = text:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
    local number = ((a * 256 + b) * 256 + c) * 256 + d + places
    return string.format("%d.%d.%d.%d", math.floor(number / 16777216) % 256, math.floor(number / 65536) % 256,
        math.floor(number / 256) % 256, number % 256)
end

-- A field that goes from `first` to `last` in steps of `step`.
local function range(field, first, last, step)
    pktgen.range[field]("0", "start", first)
    pktgen.range[field]("0", "min", first)
    pktgen.range[field]("0", "max", last)
    pktgen.range[field]("0", "inc", step)
end

local hosts = tonumber(setting("HOSTS", "1024"))
local size = tonumber(setting("SIZE", "64"))
local first_host = setting("FIRST_HOST", "10.16.0.2")
local remote = setting("REMOTE", "203.0.113.1")

pktgen.range.dst_mac("0", "start", setting("ROUTER_MAC", "02:00:00:00:00:01"))
pktgen.range.src_mac("0", "start", setting("OWN_MAC", "02:00:00:00:00:02"))
range("src_ip", first_host, address(first_host, hosts - 1), "0.0.0.1")
range("dst_ip", remote, remote, "0.0.0.0")
range("src_port", 1024, 1024 + 62, 1)
range("dst_port", 8080, 8080, 0)
range("pkt_size", size, size, 0)
pktgen.range.ip_proto("0", "udp")
pktgen.set("0", "rate", tonumber(setting("RATE", "100")))
pktgen.set_range("0", "on")

pktgen.start("0")
pktgen.delay(tonumber(setting("SECONDS", "10")) * 1000)
pktgen.stop("0")
-- What is on the wire still arrives.
pktgen.delay(500)
prints("portStats", pktgen.portStats("0", "port"))
pktgen.quit()
