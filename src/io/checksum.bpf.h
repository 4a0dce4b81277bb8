// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// The one's complement sum, for every program (RFC 1071).

/* A sum of numbers of sixteen bits, as one of them. */
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}
