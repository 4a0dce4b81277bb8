// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Packets of the kernel's own, at its traffic control, before it looks at them itself.
//
// Some are marked. An XDP frame knows neither that forty TCP segments are one nor that its sender left its checksum to
// its device, and some interfaces take no frames. The XDP program has the kernel make packets of frames that cannot leave as
// frames, under a mark that says which shortcut is theirs. What is marked never gets any further: it leaves by its
// shortcut, or is dropped.
//
// The others are the kernel's, unless the interface has a feeder (src/io/xdp/feeder.rs): for an XDP program a veth
// copies each packet and has its sender cut it in pieces, so that there may be none, and what it does is done here. What
// takes no shortcut goes by the feeder, as frames, to the dataplane's sockets.

#include "../punted.bpf.h"

#define IP_AT ETH_HLEN
#define TRANSPORT_AT (IP_AT + sizeof(struct iphdr))
/* What is read of each packet: of UDP's, all headers. */
#define READ_FIRST (TRANSPORT_AT + sizeof(struct udphdr))
#define TCP_REST_AT READ_FIRST
#define TCP_CHECK_AT (TRANSPORT_AT + 16)
#define UDP_CHECK_AT (TRANSPORT_AT + 6)
/* Where the last header ends that decides anything: Ethernet, a tag, IPv4 with options, ports. */
#define DECIDED_BY (ETH_HLEN + 4 + 60 + 4)

/* What is read of a packet, and but for its end written. */
struct headers {
	__u16 unused;
	__u8 stations[2 * ETH_ALEN];
	__be16 type;
	struct iphdr ip;
	__u32 ports;
	union {
		struct {
			__be16 length;
			__sum16 check;
		} udp;
		__be32 sequence;
	};
	/* A TCP segment's: the number that it acknowledges, how many words its header has (high 4 bits), flags. */
	__be32 acknowledged;
	__u8 header_words;
	__u8 flags;
};

/* Sockets that feeders lead to. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} fed SEC(".maps");

/* The end of the interface's feeder that leads there, or zero if it has none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} feeder SEC(".maps");

static __always_inline int is_read(struct __sk_buff *packet, struct headers *headers)
{
	return !bpf_skb_load_bytes(packet, 0, headers->stations, READ_FIRST);
}

enum carried { NOT_CARRIED, GOES, LOST };

/* Has a packet take a shortcut, if there still is this one: where it goes is said then. It was not changed if not, but for
 * padding. That it is sent to the interface, and not only past it, was seen where the shortcut was found. */
static __always_inline enum carried carried_by(struct __sk_buff *packet, struct headers *headers,
					struct mark mark)
{
	struct shortcut *slot = bpf_map_lookup_elem(&shortcuts, &mark.place);

	if (!slot)
		return NOT_CARRIED;
	__u64 state = *(volatile __u64 *)&slot->state;

	barrier();
	__u64 addresses = (__u64)headers->ip.daddr << 32 | headers->ip.saddr;
	__u32 length = bpf_ntohs(headers->ip.tot_len), end = ETH_HLEN + length;
	__u32 is_tcp = headers->ip.protocol == IPPROTO_TCP;
	__u32 ports = headers->ports, place = slot->exit, header_length = sizeof(struct iphdr);
	__u32 segments = packet->gso_segs, size = packet->gso_size;
	__u32 *words = (void *)&headers->ip;
	__u64 sum = (__u64)words[0] + words[1] + words[2] + words[3] + words[4];
	struct exit *exit = bpf_map_lookup_elem(&exits, &place);

	if (state >> 32 != mark.epoch || slot->addresses != addresses || slot->ports != ports ||
	    slot->protocol != headers->ip.protocol || !exit || !exit->device || fold(sum) != 0xffff)
		return NOT_CARRIED;
	if (is_tcp) {
		if (bpf_skb_load_bytes(packet, TCP_REST_AT, &headers->acknowledged, 6))
			return NOT_CARRIED;
		__u32 own = headers->header_words >> 4 << 2;

		if (own < sizeof(struct tcphdr) ||
		    (headers->flags & TCP_FLAGS_JUDGED & ~TCP_PSH) != TCP_ACK)
			return NOT_CARRIED;
		header_length += own;
	} else {
		if (headers->udp.length != bpf_htons(length - sizeof(struct iphdr)))
			return NOT_CARRIED;
		header_length += sizeof(struct udphdr);
	}
	if (header_length > length || end > packet->len ||
	    (size ? header_length + size : length) > (__u16)state)
		return NOT_CARRIED;
	/* Ethernet padding is no part of the packet (RFC 894). */
	if (packet->len != end && (size || bpf_skb_change_tail(packet, end, 0)))
		return NOT_CARRIED;

	__u64 new_addresses = slot->new_addresses, now = bpf_ktime_get_coarse_ns();
	__u32 new_ports = slot->new_ports, window = WINDOW << (slot->window_shift & 31);
	__u32 device = exit->device, is_passage = exit->is_passage;
	__u32 sequence = bpf_ntohl(headers->sequence), payload = length - header_length;

	__builtin_memcpy(headers->stations, &slot->stations_start, sizeof(slot->stations_start));
	__builtin_memcpy(headers->stations + 4, &slot->stations_end, sizeof(slot->stations_end));
	headers->ip.ttl -= 1;
	headers->ip.check = changed(headers->ip.check, change_of_addresses(addresses, new_addresses) + TTL_CHANGE);
	barrier();
	/* It changed hands. */
	if (*(volatile __u64 *)&slot->state != state)
		return NOT_CARRIED;

	/* The kernel knows whether the checksum is finished. One that is none stays none (RFC 768). */
	__u32 check = is_tcp ? TCP_CHECK_AT : UDP_CHECK_AT;
	__u64 flags = is_tcp ? 4 : BPF_F_MARK_MANGLED_0 | 4;

	headers->ip.saddr = new_addresses;
	headers->ip.daddr = new_addresses >> 32;
	headers->ports = new_ports;
	/* All but what the checksum is part of. */
	if (bpf_skb_store_bytes(packet, 0, headers->stations, TRANSPORT_AT + sizeof(headers->ports), 0))
		return LOST;
	bpf_l4_csum_replace(packet, check, (__u32)addresses, (__u32)new_addresses, BPF_F_PSEUDO_HDR | flags);
	bpf_l4_csum_replace(packet, check, addresses >> 32, new_addresses >> 32, BPF_F_PSEUDO_HDR | flags);
	bpf_l4_csum_replace(packet, check, ports, new_ports, flags);

	/* The first of its segments is within the window, and the others follow each other. */
	if (is_tcp && sequence + (size ?: payload) - slot->sequence_next <= window)
		slot->sequence_next = sequence + payload;
	if (size)
		slot->large &= ~ALONE_MASK;
	else if (length >= LARGE && (slot->large & ALONE_MASK) < ALONE_MAX)
		slot->large += 1;
	segments = segments ?: 1;
	/* A flow's sender may be on several processors, and this with it. */
	__sync_fetch_and_add(&slot->passed, segments * PACKET + length + (segments - 1) * header_length);
	slot->last = now >> LAST_BITS;
	if (is_passage)
		bpf_redirect_peer(device, 0);
	else
		bpf_redirect(device, 0);
	return GOES;
}

/* Whether there may be a shortcut for an unmarked packet, and which. */
static __always_inline int is_found(struct headers *headers, struct mark *mark)
{
	__u32 first = 0;
	__u64 state;

	if (!shortcut_bits || headers->type != bpf_htons(ETH_P_IP) ||
	    *(__u8 *)&headers->ip != VERSION_AND_WORDS ||
	    headers->ip.frag_off & bpf_htons(FRAGMENT_MASK) || headers->ip.ttl < TTL_MIN ||
	    (headers->ip.protocol != IPPROTO_TCP && headers->ip.protocol != IPPROTO_UDP))
		return 0;
	struct gate *gate = bpf_map_lookup_elem(&shortcut_gate, &first);

	if (!gate)
		return 0;
	mark->epoch = *(volatile __u64 *)&gate->epoch;
	if (!mark->epoch || bpf_ktime_get_coarse_ns() > *(volatile __u64 *)&gate->until)
		return 0;
	for (int i = 0; i < ETH_ALEN / 2; i++)
		if (((__u16 *)headers->stations)[i] != gate->station[i])
			return 0;
	__u64 addresses = (__u64)headers->ip.daddr << 32 | headers->ip.saddr;

	return shortcut_of(mark->epoch, addresses, headers->ports, headers->ip.protocol, &state, &mark->place) != 0;
}

/* Does to an unmarked packet what the XDP program would have done to its frame. */
static __always_inline int take(struct __sk_buff *packet, __u32 into)
{
	struct headers headers = {};
	struct mark mark;

	if (!packet->vlan_present && is_read(packet, &headers)) {
		__u32 segments = packet->gso_segs;
		enum carried carried = is_found(&headers, &mark) ? carried_by(packet, &headers, mark) : NOT_CARRIED;

		/* No copy would have been made of it for XDP: it was a frame before. */
		if (packet->napi_id && !packet->gso_size && packet->len < LARGE &&
		    headers.ip.protocol == IPPROTO_UDP)
			counted(0, AS_FRAMES);
		if (carried == LOST)
			return counted(TC_ACT_SHOT, DROPPED_SHORTCUT_OVER);
		if (carried == GOES)
			return counted_as(TC_ACT_REDIRECT, CARRIED, segments ?: 1);
	}
	if (packet->data_end - packet->data < DECIDED_BY)
		bpf_skb_pull_data(packet, packet->len < DECIDED_BY ? packet->len : DECIDED_BY);
	struct ethhdr *ethernet = (void *)(long)packet->data;
	void *end = (void *)(long)packet->data_end;
	struct inside inside = { .next = ethernet + 1 };

	if (inside.next > end)
		return counted(TC_ACT_SHOT, DROPPED_SHORT);
	inside.protocol = ethernet->h_proto;
	/* The kernel has taken the outer tag off. */
	if (packet->vlan_present) {
		inside.tag = packet->vlan_proto;
		inside.vlan = packet->vlan_tci & VLAN_ID_MASK;
	}

	__u32 becomes = fate(ethernet, inside, end);

	/* The socket's program counts it. */
	if (becomes == REDIRECTED)
		return bpf_redirect(into, 0);
	return counted(is_passed(becomes) ? TC_ACT_UNSPEC : TC_ACT_SHOT, becomes);
}

SEC("classifier")
int natwerk_carry(struct __sk_buff *packet)
{
	struct mark *marked = (void *)(long)packet->data_meta;
	__u32 first = 0;

	if ((void *)(marked + 1) <= (void *)(long)packet->data && marked->word == MARK) {
		struct headers headers = {};
		struct mark mark = *marked;

		/* Whoever gets the packet next is not to take the mark for its own. */
		marked->word = 0;
		if (is_read(packet, &headers) && carried_by(packet, &headers, mark) == GOES)
			return TC_ACT_REDIRECT;
		return counted(TC_ACT_SHOT, DROPPED_SHORTCUT_OVER);
	}
	if (packet->mark == PUNTED) {
		packet->mark = 0;
		return TC_ACT_UNSPEC;
	}
	__u32 *into = bpf_map_lookup_elem(&feeder, &first);

	return into && *into ? take(packet, *into) : TC_ACT_UNSPEC;
}

/* On the far end of a feeder: all that gets there is the dataplane's. */
SEC("xdp")
int natwerk_feed(struct xdp_md *frame)
{
	return to_socket(frame, &fed);
}
