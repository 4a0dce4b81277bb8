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
/* IPv4 packets of so many bytes are worth joining, and what follows one within so many moments of 2^24 ns; not, for
 * as long, if so many in a row came alone. */
#define LARGE 1000
#define LARGE_LASTS 6
#define ALONE_MAX 8
#define ALONE_BITS 4
#define ALONE_MASK 0xf
#define MOMENT_MASK 0xfff
/* Packets that passed stand above bytes in one word. */
#define PACKET (1ull << 37)
/* When one did, in units of 2^24 ns. */
#define LAST_BITS 24
/* What one hop less adds to the complement of a checksum (RFC 1624). */
#define TTL_CHANGE bpf_htons(0xfeff)
#define WINDOW 65535u
/* "nwrk" in memory. */
#define MARK 0x6b72776e

/* One line of memory: where there are many flows, waiting for it is most of what a packet takes. */
struct shortcut {
	/* The epoch in which it is true (high 32 bits), how often the slot was given away (16 bits), the largest packet
	 * that the link takes. */
	__u64 state;
	/* Whose packets: source and destination, ports, protocol. */
	__u64 addresses;
	__u32 ports;
	__u8 protocol;
	/* Where to: the place in `exits`. */
	__u8 exit;
	/* How far a TCP segment may be ahead of what was sent: WINDOW, shifted. */
	__u8 window_shift;
	__u8 zero;
	__u64 new_addresses;
	__u32 new_ports;
	/* Destination and source of the frame that leaves. */
	__u32 stations_start;
	__u64 stations_end;
	/* What this program writes: what passed (PACKET), TCP's sequence number behind that, the moment when a large
	 * segment was last joined above how many of them in a row came alone (ALONE_BITS) or zero, when (LAST_BITS). */
	__u64 passed;
	__u32 sequence_next;
	__u16 large;
	__u16 last;
};

struct gate {
	/* The epoch of shortcuts that are true; zero while none is. */
	__u64 epoch;
	/* Until when the dataplane is known to be there, in nanoseconds. */
	__u64 until;
	/* The interface's link address. */
	__u16 station[4];
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

/* A checksum once `change` is added to its complement, in memory's order of bytes, in which a sum says the same
 * (RFC 1071, section 2). */
static __always_inline __u16 changed(__u16 checksum, __u64 change)
{
	return ~fold((__u16)~checksum + change);
}

/* What it adds to a checksum's complement that one word becomes another (RFC 1624). */
static __always_inline __u64 change(__u32 old, __u32 new)
{
	return (__u64)(__u32)~old + new;
}

static __always_inline __u64 change_of_addresses(__u64 old, __u64 new)
{
	return change(old, new) + change(old >> 32, new >> 32);
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
	__u32 large = slot->large, alone = large & ALONE_MASK, moment = now >> LAST_BITS & MOMENT_MASK;
	int is_recent = large && (moment - (large >> ALONE_BITS) & MOMENT_MASK) < LARGE_LASTS;

	if (is_recent && alone >= ALONE_MAX)
		return 0;
	if (length < LARGE) {
		/* Moments come again, every minute. */
		if (large && !is_recent)
			slot->large = 0;
		return is_recent;
	}
	large = moment << ALONE_BITS | (is_recent ? alone : 0);
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
	/* Six bytes, as four and two. */
	if (*(__u32 *)ethernet->h_dest != *(__u32 *)gate->station ||
	    *(__u16 *)(ethernet->h_dest + 4) != gate->station[2])
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

	if ((void *)ip + length > end || length > (__u16)state || fold(sum) != 0xffff)
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

	__u64 new_addresses = slot->new_addresses, stations_end = slot->stations_end;
	__u32 new_ports = slot->new_ports, stations_start = slot->stations_start;
	__u32 window = WINDOW << (slot->window_shift & 31);
	__u64 translation = change_of_addresses(addresses, new_addresses);

	barrier();
	/* It changed hands, or is true no more. */
	if (*(volatile __u64 *)&slot->state != state)
		return NONE;

	*(__u32 *)ethernet->h_dest = stations_start;
	*(__u64 *)(ethernet->h_dest + 4) = stations_end;
	ip->ttl -= 1;
	ip->check = changed(ip->check, translation + TTL_CHANGE);
	*(__u64 *)&ip->saddr = new_addresses;
	*(__u32 *)&udp->source = new_ports;
	if (is_tcp || *check) {
		__u16 now_right = changed(*check, translation + change(ports, new_ports));

		/* UDP's zero means none, so a sum of zero is sent as all ones (RFC 768). */
		*check = is_tcp || now_right ? now_right : 0xffff;
	}
	if (is_tcp && sequence_end - slot->sequence_next <= window)
		slot->sequence_next = sequence_end;
	slot->passed += PACKET + length;
	slot->last = now >> LAST_BITS;

	bpf_redirect(exit->device, 0);

	/* Ethernet padding is no part of the packet (RFC 894). No pointer into the frame is good after. */
	__s32 padding = end - (void *)ip - length;

	if (padding > 0)
		bpf_xdp_adjust_tail(frame, -padding);
	return AS_FRAME;
}
