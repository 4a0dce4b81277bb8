// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Shortcuts of packets that cannot leave as frames: TCP segments, of which the kernel makes one large packet on
// receipt (GRO), which leaves as one; checksums that their sender left to its device; interfaces that take no frames. The
// XDP program has the kernel make packets of them, under a mark that says which shortcut is theirs, and the kernel
// carries them to this program, at its traffic control, before it looks at them itself.
//
// What is marked never gets any further: it leaves by its shortcut, or is dropped.

#define TRANSPORT_AT (ETH_HLEN + sizeof(struct iphdr))
#define TCP_SEQUENCE_AT (TRANSPORT_AT + 4)
#define TCP_CHECK_AT (TRANSPORT_AT + 16)
#define UDP_CHECK_AT (TRANSPORT_AT + 6)

/* What is read of a packet, and but for its end written. */
struct headers {
	__u8 stations[2 * ETH_ALEN];
	__be16 type;
	struct iphdr ip;
	__u32 ports;
	/* A TCP segment's. */
	__be32 sequence;
	__be32 acknowledged;
	/* How many words its header has (high 4 bits). */
	__u8 header_words;
} __attribute__((packed));

/* Where a shortcut's packet goes now, or nothing if there is no such shortcut any more. */
static __always_inline __u32 carried_to(struct __sk_buff *packet, struct mark mark)
{
	struct headers headers = {};
	struct shortcut *slot = bpf_map_lookup_elem(&shortcuts, &mark.place);

	/* UDP's may be shorter than what is read of TCP's. */
	if (!slot || bpf_skb_load_bytes(packet, 0, &headers, TCP_SEQUENCE_AT))
		return 0;
	__u64 state = *(volatile __u64 *)&slot->state;

	barrier();
	__u64 addresses = (__u64)headers.ip.daddr << 32 | headers.ip.saddr;
	__u32 length = bpf_ntohs(headers.ip.tot_len), end = ETH_HLEN + length;
	__u32 is_tcp = headers.ip.protocol == IPPROTO_TCP;
	__u32 ports = headers.ports, place = slot->exit, header_length = TRANSPORT_AT - ETH_HLEN;
	__u32 segments = packet->gso_segs, size = packet->gso_size;
	struct exit *exit = bpf_map_lookup_elem(&exits, &place);

	if (state >> 32 != mark.epoch || slot->addresses != addresses || slot->ports != ports ||
	    slot->protocol != headers.ip.protocol || !exit)
		return 0;
	if (is_tcp) {
		if (bpf_skb_load_bytes(packet, TCP_SEQUENCE_AT, &headers.sequence, sizeof(headers) - TCP_SEQUENCE_AT))
			return 0;
		header_length += headers.header_words >> 4 << 2;
	} else {
		header_length += sizeof(struct udphdr);
	}
	if (header_length > length || (size ? header_length + size : length) > slot->mtu)
		return 0;
	/* Ethernet padding is no part of the packet (RFC 894). */
	if (packet->len != end && (size || bpf_skb_change_tail(packet, end, 0)))
		return 0;

	__u64 new_addresses = slot->new_addresses, now = bpf_ktime_get_coarse_ns();
	__u32 new_ports = slot->new_ports, window = slot->window, device = exit->device;
	__u32 sequence = bpf_ntohl(headers.sequence), payload = length - header_length;

	__builtin_memcpy(headers.stations, slot->stations, sizeof(headers.stations));
	headers.ip.ttl -= 1;
	headers.ip.check = changed(headers.ip.check, slot->header_change);
	barrier();
	/* It changed hands. */
	if (*(volatile __u64 *)&slot->state != state)
		return 0;

	/* The kernel knows whether the checksum is finished. One that is none stays none (RFC 768). */
	__u32 check = is_tcp ? TCP_CHECK_AT : UDP_CHECK_AT;
	__u64 flags = is_tcp ? 4 : BPF_F_MARK_MANGLED_0 | 4;

	bpf_l4_csum_replace(packet, check, (__u32)addresses, (__u32)new_addresses, BPF_F_PSEUDO_HDR | flags);
	bpf_l4_csum_replace(packet, check, addresses >> 32, new_addresses >> 32, BPF_F_PSEUDO_HDR | flags);
	bpf_l4_csum_replace(packet, check, ports, new_ports, flags);
	headers.ip.saddr = new_addresses;
	headers.ip.daddr = new_addresses >> 32;
	headers.ports = new_ports;
	if (bpf_skb_store_bytes(packet, 0, &headers, TCP_SEQUENCE_AT, 0))
		return 0;

	/* The first of its segments is within the window, and the others follow each other. */
	if (is_tcp && sequence + (size ?: payload) - slot->sequence_next <= window)
		slot->sequence_next = sequence + payload;
	if (size)
		slot->large &= ~0xff;
	else if (length >= LARGE && (slot->large & 0xff) < ALONE_MAX)
		slot->large += 1;
	segments = segments ?: 1;
	slot->packets += segments;
	slot->bytes += length + (segments - 1) * header_length;
	slot->last = now;
	return device;
}

SEC("classifier")
int natwerk_carry(struct __sk_buff *packet)
{
	struct mark *marked = (void *)(long)packet->data_meta;

	if ((void *)(marked + 1) > (void *)(long)packet->data || marked->word != MARK)
		return TC_ACT_UNSPEC;
	struct mark mark = *marked;

	/* Whoever gets the packet next is not to take the mark for its own. */
	marked->word = 0;
	__u32 device = carried_to(packet, mark);

	if (!device)
		return counted(TC_ACT_SHOT, DROPPED_SHORTCUT_OVER);
	return bpf_redirect(device, 0);
}
