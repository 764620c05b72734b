/* Super-frames: their shape, the checks on one from a peer, and the headers of a run of it. docs/dataplane.md. */
#ifndef FABRIC_VNET_H
#define FABRIC_VNET_H

#include "bytes.h"

enum {
    VNET_BYTES = 10,
    NEEDS_CSUM = 1,
    GSO_NONE = 0,
    GSO_TCPV4 = 1,
    GSO_TCPV6 = 4,
    GSO_UDP = 5,
    GSO_ECN = 0x80,
    MIN_TCP_GSO_BYTES = 8, /* TCP_MIN_GSO_SIZE of Linux */
    MAX_DATAGRAMS = 128,   /* under one UDP header: UDP_MAX_SEGMENTS of Linux 6.9 */
    MAX_HEADERS = 14 + 8 + 60 + 60, /* Ethernet with two tags, IPv4 with options, TCP with options */
};

struct shape {
    bool is_udp, is_ipv6, is_ecn;
    size_t ip_at, transport_at, headers, gso_size;
    size_t ends_at; /* by the lengths in its IP and UDP headers, the lesser of the two */
};

/* Offsets and sizes of a super-frame that begins with `head`; false where header and frame disagree.
 *
 * `whole` is its length, or 0 where only the first slice is known: then the lengths inside are not less than that. */
bool shape_of(struct shape *shape, const uint8_t vnet[VNET_BYTES], struct view head, size_t whole);

/* Whether a kernel takes so many bytes of payload under one header. */
bool is_countable(const struct shape *shape, size_t payload);

/* The vnet header for delivery, with `payload` bytes behind the headers. */
void header_for(const struct shape *shape, size_t payload, bool is_first, uint8_t vnet[VNET_BYTES]);

/* Mends the headers at `frame` for the payload from byte `start` on, `payload` bytes of it. */
void mend_headers(const struct shape *shape, uint8_t *frame, size_t start, size_t payload, bool is_last);

/* Completes a partial checksum in place; false where it would stand outside of the frame. */
bool complete_checksum(const uint8_t vnet[VNET_BYTES], uint8_t *frame, size_t length);

#endif
