// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// A traffic generator's two ends. `send` is run by the kernel itself, again and again, on frames that
// it makes (BPF_PROG_RUN with live frames, kernel 5.18): it writes a packet of the next flow and
// redirects it to an interface. It keeps the rate itself, and drops the frames that come between. `receive` sits on the interface where the packets should arrive:
// it counts them, looks whether they are right, and drops them.
//
// Recycled frames come back as the router left them, so `send` writes every byte up to the
// timestamp each time.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../checksum.bpf.h"

/* Behind the transport header: who we are, and when it was sent (CLOCK_MONOTONIC, ns). */
struct stamp {
	__be32 magic;
	__u32 zero;
	__u64 sent;
};

#define MAGIC 0x6e77676e
#define TTL 64
#define SYN 0x02
/* Latency is counted in buckets: 64 for each power of two of nanoseconds. */
#define BUCKET_BITS 6
#define BUCKETS (64 << BUCKET_BITS)

/* All in host byte order; set before the program is loaded. */
volatile const __u32 interface_index = 0;
volatile const __u8 destination_mac[6] = {};
volatile const __u8 source_mac[6] = {};
volatile const __u32 first_source = 0;
volatile const __u32 hosts = 1;
volatile const __u32 first_port = 1024;
volatile const __u32 ports = 1;
volatile const __u32 destination = 0;
volatile const __u32 destination_port = 0;
/* Bytes of the IPv4 packet. */
volatile const __u32 length = 46;
volatile const __u32 protocol = IPPROTO_UDP;
/* Flows in the order of their numbers, or at random. */
volatile const __u32 in_order = 0;
/* What received packets come from; zero for anybody. */
volatile const __u32 expected_source = 0;

/* Picoseconds between two packets; zero for as many as can be made. */
volatile const __u64 interval = 0;
/* How many packets there shall be, and nanoseconds after which there are no more. */
volatile const __u64 packets_max = ~0ull;
volatile const __u64 time_max = ~0ull;

/* Told to src/io/generator/mod.rs, in this order. Only one processor runs `send`. */
struct {
	__u64 packets;
	/* When the first and the last one were sent (CLOCK_MONOTONIC, ns). */
	__u64 first;
	__u64 last;
	/* When the next one is due, in picoseconds after the first. */
	__u64 due;
} progress = {};

/* Names stand in src/io/generator/mod.rs, in the same order. */
enum counter { PACKETS, BYTES, FOREIGN, WRONG_SOURCE, WRONG_CHECKSUM, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} latencies SEC(".maps");

/* The sum of 16-bit words as they lie in memory. */
static __always_inline __u64 sum_words(const void *start, int bytes)
{
	const __u16 *words = start;
	__u64 sum = 0;
#pragma unroll
	for (int i = 0; i < bytes / 2; i++)
		sum += words[i];
	return sum;
}

static __always_inline __u64 pseudo_sum(const struct iphdr *ip, __u32 transport_length)
{
	return sum_words(&ip->saddr, 8) + bpf_htons(ip->protocol) + bpf_htons(transport_length);
}

static __always_inline __u32 flow_number(__u64 number, __u32 flows)
{
	if (in_order)
		return number % flows;
	/* A generator of full period over 2^32 that looks random in its high bits. */
	__u32 mixed = (__u32)number * 2654435761u;
	mixed ^= mixed >> 15;
	mixed *= 2246822519u;
	return ((__u64)mixed * flows) >> 32;
}

/* Whether a packet is to be sent now; counts it then. What was missed is caught up on at twice the rate at most: a burst
 * would measure the router's queues. */
static __always_inline int is_due(__u64 now)
{
	if (progress.packets >= packets_max)
		return 0;
	if (!progress.packets)
		progress.first = now;
	__u64 since = now - progress.first;
	if (since > time_max)
		return 0;
	if (interval) {
		if (since * 1000 < progress.due)
			return 0;
		progress.due += interval;
		if (progress.due < since * 1000 + interval / 2)
			progress.due = since * 1000 + interval / 2;
	}
	progress.last = now;
	progress.packets++;
	return 1;
}

SEC("xdp")
int send(struct xdp_md *context)
{
	__u64 now = bpf_ktime_get_ns();
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = (void *)(ethernet + 1);
	__u32 flow = flow_number(progress.packets, hosts * ports);
	__u32 host = flow / ports, port = first_port + flow % ports;
	__u32 transport_length = length - sizeof(*ip);
	struct stamp *stamp;

	if ((void *)(ip + 1) + sizeof(struct udphdr) + sizeof(*stamp) > end)
		return XDP_ABORTED;
	if (!is_due(now))
		return XDP_DROP;
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++) {
		ethernet->h_dest[i] = destination_mac[i];
		ethernet->h_source[i] = source_mac[i];
	}
	ethernet->h_proto = bpf_htons(ETH_P_IP);
	*(__u8 *)ip = 0x45;
	ip->tos = 0;
	ip->tot_len = bpf_htons(length);
	ip->id = 0;
	ip->frag_off = 0;
	ip->ttl = TTL;
	ip->protocol = protocol;
	ip->check = 0;
	ip->saddr = bpf_htonl(first_source + host);
	ip->daddr = bpf_htonl(destination);
	ip->check = ~fold(sum_words(ip, sizeof(*ip)));
	if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)(ip + 1);

		if ((void *)(tcp + 1) + sizeof(*stamp) > end)
			return XDP_ABORTED;
		__builtin_memset(tcp, 0, sizeof(*tcp));
		tcp->source = bpf_htons(port);
		tcp->dest = bpf_htons(destination_port);
		tcp->seq = bpf_htonl(flow);
		((__u8 *)tcp)[12] = sizeof(*tcp) / 4 << 4;
		((__u8 *)tcp)[13] = SYN;
		tcp->window = bpf_htons(65535);
		stamp = (void *)(tcp + 1);
	} else {
		struct udphdr *udp = (void *)(ip + 1);

		udp->source = bpf_htons(port);
		udp->dest = bpf_htons(destination_port);
		udp->len = bpf_htons(transport_length);
		udp->check = 0;
		stamp = (void *)(udp + 1);
	}
	stamp->magic = bpf_htonl(MAGIC);
	stamp->zero = 0;
	stamp->sent = now;
	/* What lies behind the stamp is zero from the start, and no router changes it. */
	__u64 sum = pseudo_sum(ip, transport_length) + sum_words(stamp, sizeof(*stamp));
	if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)(ip + 1);

		tcp->check = ~fold(sum + sum_words(tcp, sizeof(*tcp)));
	} else {
		struct udphdr *udp = (void *)(ip + 1);
		__u16 check = ~fold(sum + sum_words(udp, sizeof(*udp)));

		udp->check = check ? check : 0xffff;
	}
	return bpf_redirect(interface_index, 0);
}

static __always_inline void count(__u32 which, __u64 by)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		*counter += by;
}

/* The bucket of a time: its highest bit, and the bits behind it. */
static __always_inline __u32 bucket(__u64 time)
{
	__u32 top = 0;
	__u64 rest = time;

#pragma unroll
	for (int shift = 32; shift > 0; shift >>= 1) {
		if (rest >> shift) {
			rest >>= shift;
			top += shift;
		}
	}
	__u32 behind = top >= BUCKET_BITS ? time >> (top - BUCKET_BITS) : time << (BUCKET_BITS - top);
	behind &= (1 << BUCKET_BITS) - 1;
	return (top << BUCKET_BITS | behind) & (BUCKETS - 1);
}

SEC("xdp")
int receive(struct xdp_md *context)
{
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct stamp *stamp;
	__u64 sum;

	if ((void *)(ip + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_IP) || *(__u8 *)ip != 0x45)
		return XDP_PASS;
	if (ip->protocol == IPPROTO_UDP) {
		struct udphdr *udp = (void *)(ip + 1);

		stamp = (void *)(udp + 1);
		if ((void *)(stamp + 1) > end)
			return XDP_PASS;
		sum = udp->check ? sum_words(udp, sizeof(*udp)) : 0;
	} else if (ip->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)(ip + 1);

		stamp = (void *)(tcp + 1);
		if ((void *)(stamp + 1) > end)
			return XDP_PASS;
		sum = sum_words(tcp, sizeof(*tcp));
	} else {
		return XDP_PASS;
	}
	if (stamp->magic != bpf_htonl(MAGIC)) {
		count(FOREIGN, 1);
		return XDP_PASS;
	}
	count(PACKETS, 1);
	count(BYTES, end - data);
	if (expected_source && ip->saddr != bpf_htonl(expected_source))
		count(WRONG_SOURCE, 1);
	if (sum)
		sum += pseudo_sum(ip, bpf_ntohs(ip->tot_len) - sizeof(*ip)) + sum_words(stamp, sizeof(*stamp));
	if (fold(sum_words(ip, sizeof(*ip))) != 0xffff || (sum && fold(sum) != 0xffff))
		count(WRONG_CHECKSUM, 1);
	__u64 now = bpf_ktime_get_ns(), sent = stamp->sent;
	__u32 place = bucket(now > sent ? now - sent : 0);
	__u64 *latency = bpf_map_lookup_elem(&latencies, &place);
	if (latency)
		(*latency)++;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
