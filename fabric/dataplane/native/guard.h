/* The source guard for what a glance decides; all else is asked of the one in Python (fabric/dataplane/guard.py). */
#ifndef FABRIC_GUARD_H
#define FABRIC_GUARD_H

#include "bytes.h"

enum { MAX_ADDRESSES = 8 };

/* What a peer may send from. An IPv4 address has 4 bytes of the 16, and `length` 4. */
struct claim {
    uint8_t mac[6], own_mac[6];
    bool bridge;
    struct {
        uint8_t length, ip[16];
    } addresses[MAX_ADDRESSES];
    size_t count;
};

enum verdict { VERDICT_IN, VERDICT_FALSE_SOURCE, VERDICT_MALFORMED, VERDICT_ASK };

/* `frame` is all of a frame, or all headers of a super-frame. Never says IN where the careful guard would not. */
enum verdict guard_check(const struct claim *claim, struct view frame);

#endif
