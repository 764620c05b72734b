/* The input of a harness read as a script: numbers and bytes, zeros behind its end. */
#ifndef FABRIC_SCRIPT_H
#define FABRIC_SCRIPT_H

#include <stdio.h>
#include <stdlib.h>

#include "lane.h"

struct script {
    const uint8_t *at;
    size_t length;
};

/* A broken promise of the code under test. */
#define MUST(condition)                                                             \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: must be: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

static inline uint8_t next_u8(struct script *script)
{
    if (script->length == 0)
        return 0;
    script->length--;
    return *script->at++;
}

static inline uint16_t next_u16(struct script *script)
{
    uint8_t high = next_u8(script);
    return (uint16_t)(high << 8 | next_u8(script));
}

/* Fills `room` with up to `length` bytes of the script; a pattern takes the place of those that it lacks. */
static inline void next_bytes(struct script *script, uint8_t *room, size_t length)
{
    size_t own = length < script->length ? length : script->length;
    memcpy(room, script->at, own);
    script->at += own;
    script->length -= own;
    for (size_t at = own; at < length; at++)
        room[at] = (uint8_t)(at * 7 + (at >> 8));
}

/* Byte `at` of a payload: no two stretches of it are alike. */
static inline uint8_t payload_byte(size_t at)
{
    uint32_t word = (uint32_t)(at / 4 + 1) * UINT32_C(2654435761);
    return (uint8_t)(word >> 8 * (at % 4));
}

/* Writes a super-frame as a kernel would make it, of `payload` bytes, and its vnet header; returns its length.
 *
 * `kind`: bit 0 UDP, bit 1 IPv6, bit 2 a tag, bit 3 options, bit 4 two tags, bit 5 ECN; `flags` are those of TCP. */
static inline size_t write_super_frame(uint8_t vnet[VNET_BYTES], uint8_t *frame, uint8_t kind, uint8_t flags,
                                       size_t payload, uint16_t gso_size, const uint8_t destination[6],
                                       const uint8_t source[6], const uint8_t ipv4[4], const uint8_t ipv6[16])
{
    bool is_udp = kind & 1, is_ipv6 = kind & 2, has_options = kind & 8;
    size_t at = 12, transport_bytes = is_udp ? 8 : has_options ? 32 : 20;
    memcpy(frame, destination, 6);
    memcpy(frame + 6, source, 6);
    if (kind & 16) {
        memcpy(frame + at, "\x88\xa8\x00\x07", 4);
        at += 4;
    }
    if (kind & 4) {
        memcpy(frame + at, "\x81\x00\x00\x2a", 4);
        at += 4;
    }
    put_u16(frame + at, is_ipv6 ? 0x86dd : 0x0800);
    at += 2;
    if (is_ipv6) {
        memset(frame + at, 0, 40);
        frame[at] = 0x60;
        put_u16(frame + at + 4, (uint16_t)(transport_bytes + payload));
        frame[at + 6] = is_udp ? 17 : 6;
        memcpy(frame + at + 8, ipv6, 16);
        memcpy(frame + at + 24, ipv6, 16);
        at += 40;
    } else {
        size_t header = has_options ? 28 : 20;
        memset(frame + at, 1, header);
        frame[at] = (uint8_t)(0x40 | header / 4);
        put_u16(frame + at + 2, (uint16_t)(header + transport_bytes + payload));
        put_u32(frame + at + 4, 0xfffe4000);
        frame[at + 9] = is_udp ? 17 : 6;
        memcpy(frame + at + 12, ipv4, 4);
        memcpy(frame + at + 16, ipv4, 4);
        at += header;
    }
    memset(frame + at, 0, transport_bytes);
    put_u32(frame + at, 0x0fa01388);
    if (is_udp) {
        put_u16(frame + at + 4, (uint16_t)(8 + payload));
    } else {
        put_u32(frame + at + 4, 0xfffff000);
        frame[at + 12] = (uint8_t)(transport_bytes / 4 << 4);
        frame[at + 13] = flags;
    }
    memset(vnet, 0, VNET_BYTES);
    vnet[0] = NEEDS_CSUM;
    vnet[1] = is_udp ? GSO_UDP : (uint8_t)((is_ipv6 ? GSO_TCPV6 : GSO_TCPV4) | (kind & 32 ? GSO_ECN : 0));
    put_le16(vnet + 4, gso_size);
    put_le16(vnet + 6, (uint16_t)at);
    put_le16(vnet + 8, is_udp ? 6 : 16);
    at += transport_bytes;
    for (size_t byte = 0; byte < payload; byte++)
        frame[at + byte] = payload_byte(byte);
    return at + payload;
}

/* Whether `frame` is what its vnet header says, in all its lengths; also one that is down to one segment. */
static inline bool is_sound(const uint8_t vnet[VNET_BYTES], const uint8_t *frame, size_t length, struct shape *shape)
{
    uint8_t asked[VNET_BYTES];
    memcpy(asked, vnet, VNET_BYTES);
    if (vnet[1] == GSO_NONE) {
        size_t at = get_le16(vnet + 6);
        bool is_udp = get_le16(vnet + 8) == 6, is_ipv6 = at >= 40 && get_u16(frame + at - 42) == 0x86dd;
        asked[1] = is_udp ? GSO_UDP : is_ipv6 ? GSO_TCPV6 : GSO_TCPV4;
        put_le16(asked + 4, 0xffff);
    }
    return shape_of(shape, asked, (struct view){frame, length}, length) && get_le16(vnet + 2) == shape->headers &&
           (vnet[1] == GSO_NONE || length - shape->headers > shape->gso_size);
}

#endif
