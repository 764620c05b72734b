/* How much of what is not DATA crosses to Python: what a flood of it takes of a processor is bounded, whoever sends it.
 *
 * Token buckets (RFC 2697) for each gate, for all gates together, for what servers and relays say, and for noise. Of a
 * peer's gate an honest one uses some ten datagrams to meet, and guesses at 200 a second at most (docs/paths.md). What
 * relays carry (RELAYED) is not metered: frames are in there. */
#ifndef FABRIC_METER_H
#define FABRIC_METER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GATES = 256 }; /* as many are told apart, by their index; a few more peers share one */

struct bucket {
    double spent, since;
};

struct meters {
    struct bucket gates[GATES], gated, told, noise;
};

/* Whether to hand on a datagram that came at `now`; all zero bytes are meters that nothing has passed. */
bool meters_pass(struct meters *meters, const uint8_t *datagram, size_t length, double now);

#endif
