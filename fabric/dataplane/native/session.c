#include "session.h"

bool window_check(const struct window *window, uint64_t counter)
{
    if (!window->has_begun || counter > window->highest)
        return true;
    return window->highest - counter < WINDOW && !(window->bits[counter / 64 % WINDOW_WORDS] >> counter % 64 & 1);
}

void window_mark(struct window *window, uint64_t counter)
{
    if (!window->has_begun || counter > window->highest) {
        /* The word of the highest counter so far is in use, those behind it are not yet. */
        uint64_t words = counter / 64 - window->highest / 64;
        if (words >= WINDOW_WORDS)
            memset(window->bits, 0, sizeof window->bits);
        for (; words > 0 && words < WINDOW_WORDS; words--)
            window->bits[(counter / 64 - words + 1) % WINDOW_WORDS] = 0;
        window->highest = counter;
        window->has_begun = true;
    }
    window->bits[counter / 64 % WINDOW_WORDS] |= UINT64_C(1) << counter % 64;
}

bool sealer_seal(struct sealer *sealer, const uint8_t *plain, size_t length, uint8_t *out)
{
    if (sealer->counter >= LAST_COUNTER)
        return false;
    uint8_t header[HEADER_BYTES] = {DATA_TYPE}, nonce[NONCE_BYTES] = {0};
    put_u32(header + 4, sealer->remote_index);
    put_u64(header + 8, sealer->counter);
    memcpy(nonce + 4, header + 8, 8);
    sealer->counter++; /* first of all: whatever happens below, this nonce is spent */
    memcpy(out, header, HEADER_BYTES);
    return aead_seal(&sealer->aead, nonce, header, HEADER_BYTES, plain, length, out + HEADER_BYTES);
}

enum opened opener_open(struct opener *opener, uint8_t *datagram, size_t datagram_bytes, size_t *length)
{
    if (datagram_bytes < OVERHEAD_BYTES)
        return OPENED_MALFORMED;
    uint64_t counter = get_u64(datagram + 8);
    if (!window_check(&opener->window, counter))
        return OPENED_REPLAY;
    uint8_t nonce[NONCE_BYTES] = {0};
    memcpy(nonce + 4, datagram + 8, 8);
    if (!aead_open(&opener->aead, nonce, datagram, HEADER_BYTES, datagram + HEADER_BYTES,
                   datagram_bytes - HEADER_BYTES))
        return OPENED_FORGED;
    window_mark(&opener->window, counter);
    *length = datagram_bytes - OVERHEAD_BYTES;
    return OPENED;
}
