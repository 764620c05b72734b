/* The keys of one handshake at work: counters, the replay window, sealing and opening. */
#ifndef FABRIC_SESSION_H
#define FABRIC_SESSION_H

#include "aead.h"
#include "bytes.h"

enum {
    HEADER_BYTES = 16,
    OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES,
    DATA_TYPE = 0xf1,
    WINDOW = 8192,                     /* protocol.md section 5 */
    WINDOW_WORDS = 2 * WINDOW / 64,    /* a ring twice as long, as in RFC 6479 */
};

#define LAST_COUNTER (UINT64_C(1) << 31)

/* Lets each counter through once, in any order within WINDOW behind the highest. */
struct window {
    uint64_t bits[WINDOW_WORDS];
    uint64_t highest;
    bool has_begun; /* else none was seen, not even 0 */
};

bool window_check(const struct window *window, uint64_t counter);

/* Only for a counter that `window_check` let pass, and only after the record was authentic. */
void window_mark(struct window *window, uint64_t counter);

/* What seals: touched by one thread at a time. No counter is ever used twice. */
struct sealer {
    struct aead aead;
    uint32_t remote_index;
    uint64_t counter;
};

/* Seals `length` bytes into a datagram of `length + OVERHEAD_BYTES` at `out`; false when the key is used up. */
bool sealer_seal(struct sealer *sealer, const uint8_t *plain, size_t length, uint8_t *out);

enum opened { OPENED, OPENED_MALFORMED, OPENED_REPLAY, OPENED_FORGED };

/* What opens: touched by one thread at a time. */
struct opener {
    struct aead aead;
    struct window window;
};

/* Opens a datagram in place: its record stands behind the header, `*length` bytes of it. */
enum opened opener_open(struct opener *opener, uint8_t *datagram, size_t datagram_bytes, size_t *length);

#endif
