/* Wholes put together again from their slices, and runs of those that stay incomplete. docs/dataplane.md. */
#ifndef FABRIC_REASSEMBLY_H
#define FABRIC_REASSEMBLY_H

#include <sys/uio.h>

#include "bytes.h"
#include "vnet.h"

enum {
    SLICE_HEAD_BYTES = 18,
    SLICE_VNET_AT = 8,
    VNET_FLAG = 1,
    CONTROL_FLAG = 2,
    MAX_SLICES = 255,
    MAX_FRAME_BYTES = 65535 + 14 + 8,
    MAX_CONTROL_BYTES = 8192,
    MAX_PARTIAL = 64,
    MAX_WAITING_BYTES = 1 << 20, /* a session */
    MAX_PARTS = MAX_SLICES + 2,  /* vnet header, headers, slices */
    LATER_ENOUGH = 3,            /* slices of a later super-frame: as many as TCP's own patience, RFC 5681 */
};

static const double EXPIRY_S = 1.0, HURRY_S = 0.005;

struct partial;

struct reassembly {
    struct partial *first, *last; /* in the order in which they began */
    size_t count, waiting_bytes;
    unsigned dropped;   /* wholes given up since the caller last looked */
    unsigned malformed; /* wholes that were no super-frame, likewise */
};

/* Who takes what is whole, or as whole as it gets: bytes in `count` parts, of a super-frame behind its vnet header.
 * `headers` is all of a super-frame's headers; of a frame or message all that is in its first part. */
struct receiver {
    void *context;
    void (*take_frame)(void *context, struct iovec *parts, int count, size_t bytes);
    void (*take_super_frame)(void *context, struct iovec *parts, int count, struct view headers, size_t bytes);
    void (*take_control)(void *context, struct iovec *parts, int count, size_t bytes);
};

/* Takes the plain record of a slice, whose head was checked: longer than SLICE_HEAD_BYTES, index below count, flags
 * 0, VNET_FLAG or CONTROL_FLAG. */
void reassembly_take(struct reassembly *reassembly, const uint8_t *slice, size_t length, double now,
                     const struct receiver *receiver);

void reassembly_handle_timeout(struct reassembly *reassembly, double now, const struct receiver *receiver);

/* When `reassembly_handle_timeout` has something to do; 0 for never. */
double reassembly_next_timeout(const struct reassembly *reassembly);

void reassembly_free(struct reassembly *reassembly);

#endif
