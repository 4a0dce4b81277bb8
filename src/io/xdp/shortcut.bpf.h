// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Shortcuts: what the dataplane does to the packets of one direction of a session, again, without the
// dataplane. It wrote down what it did to the last one (src/shortcut/slot.rs), and what it did not write down, or what
// is not exactly like it, goes to its socket as ever.
//
// A slot is read without a lock: its state is read first and last, and says whose it is.

#include "../checksum.bpf.h"

#define VERSION_AND_WORDS 0x45 /* IPv4, no options */
#define TTL_MIN 2
#define TCP_FLAGS_JUDGED 0x3f
#define TCP_ACK 0x10
#define TCP_PSH 0x08
#define BYTES_OF_ONE 0x0101010101010101ull
/* IPv4 packets of so many bytes are worth joining, and what follows one within so many moments of 2^20 ns; not, for
 * as long, if so many in a row came alone. */
#define LARGE 1000
#define LARGE_LASTS 100
#define ALONE_MAX 8
#define MOMENT_BITS 20
#define MOMENT_MASK 0xffffff
/* "nwrk" in memory. */
#define MARK 0x6b72776e

struct shortcut {
	/* The epoch in which it is true, above how often the slot was given away. */
	__u64 state;
	/* Whose packets: source and destination, ports, protocol, the interface's link address. */
	__u64 addresses;
	__u32 ports;
	__u8 protocol;
	/* Where to: the place in `exits`, and the largest packet that the link takes. */
	__u8 exit;
	__u16 mtu;
	__u8 station[ETH_ALEN];
	/* What the changes add to the complement of a checksum, in memory's order of bytes. */
	__u16 header_change;
	__u64 new_addresses;
	__u32 new_ports;
	__u16 transport_change;
	__u16 zero;
	/* Destination and source of the frame that leaves. */
	__u8 stations[2 * ETH_ALEN];
	/* How far a TCP segment may be ahead of what was sent. */
	__u32 window;
	/* What passed: a line of memory that this program writes. When, in nanoseconds. */
	__u64 packets;
	__u64 bytes;
	__u64 last;
	__u32 sequence_next;
	/* The moment when a large one was last joined, above how many of them in a row came alone (8 bits). */
	__u32 large;
	/* The dataplane's own. */
	__u64 own[4];
};

struct gate {
	/* The epoch of shortcuts that are true; zero while none is. */
	__u64 epoch;
	/* Until when the dataplane is known to be there, in nanoseconds. */
	__u64 until;
};

/* Where shortcuts lead. */
struct exit {
	__u32 device;
	/* Whether it takes frames, or packets only. */
	__u32 takes_frames;
	/* Whether packets may be handed to its other end at once. */
	__u32 is_passage;
};

/* Before a packet that the kernel carries: which shortcut is to be done to it. */
struct mark {
	__u32 word;
	__u32 place;
	__u64 epoch;
};

enum shortcut_taken { NONE, AS_FRAME, AS_PACKET };

/* Set before the program is loaded: of how many words of tags a hash names one, in bits; no shortcuts without. */
volatile const __u32 shortcut_bits = 0;
volatile const __u64 shortcut_seeds[2] = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct shortcut);
} shortcuts SEC(".maps");

/* Of each slot a byte: what it may hold, or zero for nothing. So many of them lie near that a flow without a
 * shortcut costs no look at what lies far. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} shortcut_tags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gate);
} shortcut_gate SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct exit);
} exits SEC(".maps");

static __always_inline __u16 changed(__u16 checksum, __u16 change)
{
	return ~fold((__u64)(__u16)~checksum + change);
}

/* The slot of a key, or none, and where it is; `state` is what it was when it was compared. A key may be in any of
 * the eight slots whose tags are in one word. */
static __always_inline struct shortcut *shortcut_of(__u64 epoch, __u64 addresses, __u32 ports,
						    __u8 protocol, __u64 *state, __u32 *where)
{
	__u64 hash = (addresses ^ shortcut_seeds[0]) * 0x9e3779b97f4a7c15;

	hash ^= hash >> 32;
	hash = (hash ^ ports ^ (__u64)protocol << 32) * (shortcut_seeds[1] | 1);
	__u32 word = hash >> (64 - (shortcut_bits & 31));
	__u64 *tags = bpf_map_lookup_elem(&shortcut_tags, &word);
	__u8 tag = hash >> 24 | 1;

	if (!tags)
		return 0;
	/* A byte that is the tag becomes zero, and some byte is zero only if this is not. */
	__u64 others = *(volatile __u64 *)tags ^ tag * BYTES_OF_ONE;

	if (!((others - BYTES_OF_ONE) & ~others & BYTES_OF_ONE << 7))
		return 0;
	for (int i = 0; i < 8; i++, others >>= 8) {
		__u32 place = word << 3 | i;

		if (others & 0xff)
			continue;
		struct shortcut *slot = bpf_map_lookup_elem(&shortcuts, &place);

		if (!slot)
			return 0;
		*where = place;
		*state = *(volatile __u64 *)&slot->state;
		barrier();
		if (*state >> 32 == epoch && slot->addresses == addresses && slot->ports == ports &&
		    slot->protocol == protocol)
			return slot;
	}
	return 0;
}

/* Whether a segment with data is of a stream whose segments are joined: it is large, or such a one came a moment ago,
 * so that none overtakes another. */
static __always_inline int is_joined(struct shortcut *slot, __u32 length, __u64 now)
{
	__u32 large = slot->large, alone = large & 0xff, moment = now >> MOMENT_BITS & MOMENT_MASK;
	int is_recent = (moment - (large >> 8) & MOMENT_MASK) < LARGE_LASTS;

	if (is_recent && alone >= ALONE_MAX)
		return 0;
	if (length < LARGE)
		return is_recent;
	large = moment << 8 | (is_recent ? alone : 0);
	if (slot->large != large)
		slot->large = large;
	return 1;
}

/* Whether the frame took a shortcut: it is redirected then. It was not changed if not, or if it is to take one as a
 * packet, under this mark. */
static __always_inline enum shortcut_taken take_shortcut(struct xdp_md *frame, struct ethhdr *ethernet,
							 void *end, struct mark *mark)
{
	struct iphdr *ip = (void *)(ethernet + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	__u32 first = 0;

	if (!shortcut_bits || (void *)(udp + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP) ||
	    *(__u8 *)ip != VERSION_AND_WORDS || ip->frag_off & bpf_htons(FRAGMENT_MASK) ||
	    ip->ttl < TTL_MIN)
		return NONE;
	struct gate *gate = bpf_map_lookup_elem(&shortcut_gate, &first);

	if (!gate)
		return NONE;
	__u64 epoch = *(volatile __u64 *)&gate->epoch;
	__u64 now = bpf_ktime_get_coarse_ns();

	if (!epoch || now > *(volatile __u64 *)&gate->until)
		return NONE;
	__u64 state, addresses = *(__u64 *)&ip->saddr;
	__u32 ports = *(__u32 *)&udp->source, place;
	struct shortcut *slot = shortcut_of(epoch, addresses, ports, ip->protocol, &state, &place);

	if (!slot)
		return NONE;

	/* All that follows says whether the packet is plain, as src/wire/plain.rs does. */
	__u32 length = bpf_ntohs(ip->tot_len);

	/* clang knows that this is true already, older kernels (6.12) do not. */
	asm volatile("%0 &= 0xffff" : "+r"(length));
	__u32 transport_length = length - sizeof(*ip);
	__u32 *words = (void *)ip;
	__u64 sum = (__u64)words[0] + words[1] + words[2] + words[3] + words[4];
	__u64 pseudo = (addresses & 0xffffffff) + (addresses >> 32) + bpf_htons(transport_length) +
		       bpf_htons(ip->protocol);
	__u32 is_tcp = ip->protocol == IPPROTO_TCP, sequence_end = 0, joins = 0;
	__sum16 *check = &udp->check;

	if ((void *)ip + length > end || length > slot->mtu || fold(sum) != 0xffff)
		return NONE;
	/* Six bytes, as four and two. */
	if (*(__u32 *)ethernet->h_dest != *(__u32 *)slot->station ||
	    *(__u16 *)(ethernet->h_dest + 4) != *(__u16 *)(slot->station + 4))
		return NONE;
	if (is_tcp) {
		if ((void *)(tcp + 1) > end || length < sizeof(*ip) + sizeof(*tcp))
			return NONE;
		__u32 header = ((__u8 *)tcp)[12] >> 4 << 2;
		__u8 flags = ((__u8 *)tcp)[13] & TCP_FLAGS_JUDGED;

		if (header < sizeof(*tcp) || header > transport_length || (flags & ~TCP_PSH) != TCP_ACK)
			return NONE;
		check = &tcp->check;
		joins = header < transport_length && is_joined(slot, length, now);
		sequence_end = bpf_ntohl(tcp->seq) + transport_length - header;
	} else if (ip->protocol != IPPROTO_UDP || udp->len != bpf_htons(transport_length) ||
		   length < sizeof(*ip) + sizeof(*udp)) {
		return NONE;
	}

	__u32 exit_place = slot->exit;
	struct exit *exit = bpf_map_lookup_elem(&exits, &exit_place);

	if (!exit || !exit->device)
		return NONE;
	/* The sum that a sender leaves to its device. */
	if (joins || !exit->takes_frames || fold(pseudo + (__u16)~*check) == 0xffff) {
		*mark = (struct mark){ .word = MARK, .place = place, .epoch = epoch };
		return AS_PACKET;
	}

	__u64 new_addresses = slot->new_addresses;
	__u32 new_ports = slot->new_ports;
	__u16 header_change = slot->header_change, transport_change = slot->transport_change;
	__u64 stations = *(__u64 *)slot->stations;
	__u32 stations_end = *(__u32 *)(slot->stations + 8), window = slot->window;

	barrier();
	/* It changed hands, or is true no more. */
	if (*(volatile __u64 *)&slot->state != state)
		return NONE;

	*(__u64 *)ethernet->h_dest = stations;
	*(__u32 *)(ethernet->h_source + 2) = stations_end;
	ip->ttl -= 1;
	ip->check = changed(ip->check, header_change);
	*(__u64 *)&ip->saddr = new_addresses;
	*(__u32 *)&udp->source = new_ports;
	if (is_tcp || *check) {
		__u16 now_right = changed(*check, transport_change);

		/* UDP's zero means none, so a sum of zero is sent as all ones (RFC 768). */
		*check = is_tcp || now_right ? now_right : 0xffff;
	}
	if (is_tcp && sequence_end - slot->sequence_next <= window)
		slot->sequence_next = sequence_end;
	slot->packets += 1;
	slot->bytes += length;
	slot->last = now;

	bpf_redirect(exit->device, 0);

	/* Ethernet padding is no part of the packet (RFC 894). No pointer into the frame is good after. */
	__s32 padding = end - (void *)ip - length;

	if (padding > 0)
		bpf_xdp_adjust_tail(frame, -padding);
	return AS_FRAME;
}
