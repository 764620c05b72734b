#include "meter.h"

#include "bytes.h"

enum { STUN_LAST = 0x01, DATA = 0xf1, GATED = 0xf2, RELAYED = 0xf3, RELAY_CONTROL = 0xf4, INDEX_AT = 4, INDEX_END = 8 };

struct rate {
    double a_second, at_once;
};

/* A peer asks 40 paths every 1.5 s, and hurries at first. All gates together: a hundred peers meet at once within a
 * second; one datagram alone takes Python a millisecond where the processors are busy, many at a time some 40 us each. */
static const struct rate GATE = {50, 400}, ALL_GATES = {4000, 4000}, TOLD = {500, 1000}, NOISE = {50, 100};

static bool take(struct bucket *bucket, struct rate rate, double now)
{
    double given_back = (now - bucket->since) * rate.a_second;
    bucket->spent = bucket->spent > given_back ? bucket->spent - (given_back > 0 ? given_back : 0) : 0;
    bucket->since = now;
    if (bucket->spent + 1 > rate.at_once)
        return false;
    bucket->spent++;
    return true;
}

static struct bucket *gate_of(struct meters *meters, const uint8_t *datagram)
{
    /* Indices are random: their lowest bits tell them apart as well as any sum of theirs. */
    return &meters->gates[get_u32(datagram + INDEX_AT) % GATES];
}

bool meters_pass(struct meters *meters, const uint8_t *datagram, size_t length, double now)
{
    uint8_t kind = length > 0 ? datagram[0] : DATA - 1;
    if (kind == DATA || kind == RELAYED)
        return true;
    if (kind == GATED && length >= INDEX_END)
        return take(gate_of(meters, datagram), GATE, now) && take(&meters->gated, ALL_GATES, now);
    if (kind <= STUN_LAST || kind == RELAY_CONTROL)
        return take(&meters->told, TOLD, now);
    return take(&meters->noise, NOISE, now);
}
