// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Frames that natwerk hands to the router's own kernel come in by a TAP interface. This program, on
// the TAP's ingress, lets them go on as if they had come in by the interface they really came in by:
// the kernel's filters, its reverse-path check and its sockets see the right one. The XDP program of
// that interface does not run again, and the one at its traffic control lets pass what is marked, so nothing goes round in
// circles.

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../io/punted.bpf.h"

/* The real interface; set before the program is loaded. */
volatile const __u32 interface_index = 0;

SEC("classifier")
int punt(struct __sk_buff *frame)
{
	frame->mark = PUNTED;
	return bpf_redirect(interface_index, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
