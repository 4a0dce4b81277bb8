// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Which frames the dataplane gets. Everything else is the kernel's. What is said of frames here holds for packets, too,
// where natwerk takes those instead (carry.bpf.h).
//
// The program decides nothing by itself: user space fills the maps from the rules and from what the
// kernel owns (see src/io/xdp/steering.rs), and each test here is one look into one of them. What
// the dataplane should have had but cannot get, because no socket is bound to the queue, is dropped:
// passing it would let the kernel forward around the rules. What user space has forwarded already may
// take a shortcut before all this (shortcut.bpf.h).

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define VLAN_ID_MASK 0x0fff
#define FRAGMENT_MASK 0x3fff /* more fragments, or an offset */
#define HEADER_WORDS 0x0f
#define QUEUES_MAX 256
#define OFFSET_MASK 0x1fff
#define VXLAN_PORT 4789
#define ND_FIRST 133 /* router solicitation */
#define ND_LAST 137 /* redirect */

#include "shortcut.bpf.h"

struct tag {
	__be16 control;
	__be16 protocol;
};

struct ports {
	__be16 source;
	__be16 destination;
};

/* An address that the kernel has under a tag (zero for none). */
struct local_key {
	__be32 address;
	__u16 vlan;
	__u16 zero;
};

/* The same of IPv6. */
struct local_key_ipv6 {
	struct in6_addr address;
	__u16 vlan;
	__u16 zero;
};

/* First and last port. */
struct range {
	__u16 first;
	__u16 last;
};

/* 256 ports of one protocol of a public address. */
struct page_key {
	__be32 address;
	__u8 protocol;
	__u8 page;
	__u16 zero;
};

/* A set bit is a port that the kernel serves. */
struct page {
	__u64 bits[4];
};

/* The names stand in src/io/xdp/program.rs, in the same order. */
enum reason {
	AS_FRAMES,
	CARRIED,
	DROPPED_NO_SOCKET,
	DROPPED_SHORT,
	DROPPED_SHORTCUT_OVER,
	DROPPED_UNKNOWN_TAG,
	PASSED_GROUP,
	PASSED_LINK_LOCAL,
	PASSED_LOCAL_ADDRESS,
	PASSED_NEIGHBOR_DISCOVERY,
	PASSED_NOT_IP,
	PASSED_SERVICE,
	PASSED_TAG,
	REDIRECTED,
	SHORTCUT,
	REASONS,
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Whose the frames under a tag are. */
enum owner {
	NOBODYS,
	/* The dataplane's, but for ARP and what is sent to the kernel's addresses. */
	OURS,
	/* The same where the kernel has no address: ARP is the dataplane's, too. */
	OURS_WITH_ARP,
	KERNELS,
};

/* Beside the owner of untagged frames: the dataplane has a VTEP on the interface. */
#define HAS_VTEP 0x100

/* By VLAN identifier, zero for untagged. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} tags SEC(".maps");

/* Two tags under which the dataplane has a network: the type of the outer one (1 for 802.1ad) above
 * its identifier above the inner one's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u8);
} double_tags SEC(".maps");

/* Addresses of the dataplane's own VTEPs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, __u8);
} vteps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct local_key);
	__type(value, __u8);
} local_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct local_key_ipv6);
	__type(value, __u8);
} local_addresses_ipv6 SEC(".maps");

/* The ports that the kernel gives to its own connections, the same on all addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct range);
} kernel_range SEC(".maps");

/* Public addresses of which the kernel has ports: which of these to look into. */
#define HAS_OWN 1 /* the range above, of TCP and UDP */
#define HAS_PAGES 2 /* pages that differ from it */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, __u32);
} kernel_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct page_key);
	__type(value, struct page);
} kernel_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline int counted_as(int action, __u32 reason, __u32 many)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &reason);

	if (counter)
		*counter += many;
	return action;
}

static __always_inline int counted(int action, __u32 reason)
{
	return counted_as(action, reason, 1);
}

/* Gives a frame to the socket of its queue. */
static __always_inline int to_socket(struct xdp_md *frame, void *sockets)
{
	/* The last argument is what becomes of the frame if no socket is bound to its queue. */
	if (bpf_redirect_map(sockets, frame->rx_queue_index, XDP_DROP) == XDP_REDIRECT)
		return counted(XDP_REDIRECT, REDIRECTED);
	return counted(XDP_DROP, DROPPED_NO_SOCKET);
}

/* Has the kernel carry a packet, marked, to where it takes its shortcut. */
static __always_inline int carry(struct xdp_md *frame, struct mark *mark)
{
	if (bpf_xdp_adjust_meta(frame, -(int)sizeof(*mark)))
		return to_socket(frame, &xsks);
	struct mark *before = (void *)(long)frame->data_meta;

	if ((void *)(before + 1) > (void *)(long)frame->data)
		return to_socket(frame, &xsks);
	*before = *mark;
	return counted(XDP_PASS, CARRIED);
}

static __always_inline int is_tag(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/* The destination port stands in the same place in all of these. */
static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_DCCP || protocol == IPPROTO_UDPLITE;
}

/* Whether an untagged packet is VXLAN for a VTEP of the dataplane. Its first fragments are, so that the
 * dataplane counts them as what they must not be; later ones come to nothing in the kernel. */
static __always_inline int is_vxlan(struct iphdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP ||
	    ip->frag_off & bpf_htons(OFFSET_MASK))
		return 0;
	struct ports *ports = (void *)ip + (*(__u8 *)ip & HEADER_WORDS) * 4;

	if ((void *)(ports + 1) > end || ports->destination != bpf_htons(VXLAN_PORT))
		return 0;
	__be32 address = ip->daddr;

	return bpf_map_lookup_elem(&vteps, &address) != 0;
}

/* Whether the kernel serves the endpoint that an unfragmented packet goes to. */
static __always_inline int is_service(struct iphdr *ip, void *end)
{
	__be32 address = ip->daddr;
	__u32 *holdings = bpf_map_lookup_elem(&kernel_addresses, &address);
	__u32 first = 0;
	__u16 port = 0;

	if (!holdings)
		return 0;
	if (has_ports(ip->protocol)) {
		struct ports *ports = (void *)ip + (*(__u8 *)ip & HEADER_WORDS) * 4;

		if ((void *)(ports + 1) > end)
			return 0;
		port = bpf_ntohs(ports->destination);
	}
	if (*holdings & HAS_PAGES) {
		struct page_key key = { .address = address, .protocol = ip->protocol, .page = port >> 8 };
		struct page *page = bpf_map_lookup_elem(&kernel_ports, &key);

		if (page)
			return page->bits[(port >> 6) & 3] >> (port & 63) & 1;
	}
	if (!(*holdings & HAS_OWN) || (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP))
		return 0;
	struct range *own = bpf_map_lookup_elem(&kernel_range, &first);

	return own && port >= own->first && port <= own->last;
}

/*
 * Neighbour discovery, link-local traffic and what is sent to the router itself are the kernel's;
 * all other IPv6 is the dataplane's, so that the kernel never forwards any around the rules.
 */
static __always_inline __u32 fate_of_ipv6(struct ipv6hdr *ip, void *end, __u32 vlan)
{
	if ((void *)(ip + 1) > end)
		return REDIRECTED;
	/* fe80::/10 and ff00::/8 never leave their link. */
	__u8 first = ip->daddr.s6_addr[0], second = ip->daddr.s6_addr[1];

	if (first == 0xff || (first == 0xfe && (second & 0xc0) == 0x80))
		return PASSED_LINK_LOCAL;

	struct local_key_ipv6 local = { .address = ip->daddr, .vlan = vlan };

	if (bpf_map_lookup_elem(&local_addresses_ipv6, &local))
		return PASSED_LOCAL_ADDRESS;

	__u8 *type = (void *)(ip + 1);

	/* Only with the highest hop limit has it not been forwarded (RFC 4861, section 7.1). */
	if (ip->nexthdr == IPPROTO_ICMPV6 && ip->hop_limit == 255 && (void *)(type + 1) <= end &&
	    *type >= ND_FIRST && *type <= ND_LAST)
		return PASSED_NEIGHBOR_DISCOVERY;
	return REDIRECTED;
}

/* What is behind a frame's outer tag, if it has one. */
struct inside {
	/* The type and identifier of that tag, or zero. */
	__be16 tag;
	__u16 vlan;
	/* The type of what follows, and where that starts. */
	__be16 protocol;
	void *next;
};

/* What becomes of a frame that takes no shortcut: why it is dropped or the kernel's, or else the dataplane's. */
static __always_inline __u32 fate(struct ethhdr *ethernet, struct inside inside, void *end)
{
	__u32 vlan = inside.vlan;
	__u32 *known = bpf_map_lookup_elem(&tags, &vlan);
	__u32 owner = known ? *known & ~HAS_VTEP : NOBODYS;

	if (inside.tag && inside.protocol == bpf_htons(ETH_P_8021Q)) {
		struct tag *inner = inside.next;
		__u32 both = (inside.tag == bpf_htons(ETH_P_8021AD)) << 24 | vlan << 12;

		if ((void *)(inner + 1) > end)
			return DROPPED_SHORT;
		both |= bpf_ntohs(inner->control) & VLAN_ID_MASK;
		if (bpf_map_lookup_elem(&double_tags, &both))
			return REDIRECTED;
	}
	if (known && *known & HAS_VTEP && !inside.tag && inside.protocol == bpf_htons(ETH_P_IP) &&
	    !(ethernet->h_dest[0] & 1) && is_vxlan(inside.next, end))
		return REDIRECTED;

	/* What comes without a tag where no network does is the kernel's: management, and what
	 * switches say to each other. */
	if (owner == KERNELS || (owner == NOBODYS && !vlan))
		return PASSED_TAG;
	/* A provider's tag, or another one behind it, is none of a network with one tag. */
	if (owner == NOBODYS || inside.tag == bpf_htons(ETH_P_8021AD) || is_tag(inside.protocol))
		return DROPPED_UNKNOWN_TAG;
	if (owner == OURS_WITH_ARP && inside.protocol == bpf_htons(ETH_P_ARP))
		return REDIRECTED;
	/* The kernel does not forward packets out of group frames. */
	if (ethernet->h_dest[0] & 1)
		return PASSED_GROUP;
	if (inside.protocol == bpf_htons(ETH_P_IPV6))
		return fate_of_ipv6(inside.next, end, vlan);
	if (inside.protocol != bpf_htons(ETH_P_IP))
		return PASSED_NOT_IP;

	struct iphdr *ip = inside.next;

	if ((void *)(ip + 1) > end)
		return REDIRECTED;

	struct local_key local = { .address = ip->daddr, .vlan = vlan };

	if (bpf_map_lookup_elem(&local_addresses, &local))
		return PASSED_LOCAL_ADDRESS;
	/* Later fragments have no ports, so user space gets all of a datagram and puts it together. */
	if (!(ip->frag_off & bpf_htons(FRAGMENT_MASK)) && is_service(ip, end))
		return PASSED_SERVICE;
	return REDIRECTED;
}

static __always_inline int is_passed(__u32 fate)
{
	return fate >= PASSED_GROUP && fate <= PASSED_TAG;
}

SEC("xdp")
int natwerk_steer(struct xdp_md *frame)
{
	void *start = (void *)(long)frame->data;
	void *end = (void *)(long)frame->data_end;
	struct ethhdr *ethernet = start;
	struct inside inside = { .next = ethernet + 1 };
	struct mark mark;

	if (inside.next > end)
		return counted(XDP_DROP, DROPPED_SHORT);
	switch (take_shortcut(frame, ethernet, end, &mark)) {
	case AS_FRAME:
		return counted(XDP_REDIRECT, SHORTCUT);
	case AS_PACKET:
		return carry(frame, &mark);
	case NONE:
		break;
	}
	inside.protocol = ethernet->h_proto;
	if (is_tag(inside.protocol)) {
		struct tag *tag = inside.next;

		inside.next = tag + 1;
		if (inside.next > end)
			return counted(XDP_DROP, DROPPED_SHORT);
		inside.tag = inside.protocol;
		inside.vlan = bpf_ntohs(tag->control) & VLAN_ID_MASK;
		inside.protocol = tag->protocol;
	}

	__u32 becomes = fate(ethernet, inside, end);

	if (becomes == REDIRECTED)
		return to_socket(frame, &xsks);
	return counted(is_passed(becomes) ? XDP_PASS : XDP_DROP, becomes);
}

/* Counts and decides as this program does. */
#include "carry.bpf.h"

char _license[] SEC("license") = "Dual MIT/GPL";
