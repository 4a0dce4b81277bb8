// SPDX-License-Identifier: Apache-2.0 OR MIT

/* The mark of a packet that natwerk has handed to the router's own kernel, until it gets there ("nwrk" in memory). */
#define PUNTED 0x6b72776e
