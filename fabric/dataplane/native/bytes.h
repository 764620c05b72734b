/* Bytes as they stand on the wire: numbers in network order, a reader that cannot leave its buffer, sums of RFC 1071.
 *
 * Every look into hostile bytes goes through `struct view`: the length is compared once, in `view_at`, which returns
 * NULL where the bytes are not all there. */
#ifndef FABRIC_BYTES_H
#define FABRIC_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct view {
    const uint8_t *bytes;
    size_t length;
};

static inline const uint8_t *view_at(struct view view, size_t at, size_t length)
{
    return at <= view.length && length <= view.length - at ? view.bytes + at : NULL;
}

static inline uint16_t get_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint64_t get_u48(const uint8_t *at)
{
    return (uint64_t)get_u16(at) << 32 | get_u32(at + 2);
}

static inline uint64_t get_u64(const uint8_t *at)
{
    return (uint64_t)get_u32(at) << 32 | get_u32(at + 4);
}

static inline void put_u16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void put_u32(uint8_t *at, uint32_t value)
{
    put_u16(at, (uint16_t)(value >> 16));
    put_u16(at + 2, (uint16_t)value);
}

static inline void put_u64(uint8_t *at, uint64_t value)
{
    put_u32(at, (uint32_t)(value >> 32));
    put_u32(at + 4, (uint32_t)value);
}

/* virtio writes its numbers the other way round. */
static inline uint16_t get_le16(const uint8_t *at)
{
    return (uint16_t)(at[1] << 8 | at[0]);
}

static inline void put_le16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

/* Adds 16-bit words, the last one padded; `sum` is that of what stands before, of even length. */
static inline uint64_t add_words(uint64_t sum, const uint8_t *at, size_t length)
{
    for (; length >= 4; at += 4, length -= 4)
        sum += get_u32(at);
    if (length >= 2) {
        sum += get_u16(at);
        at += 2;
        length -= 2;
    }
    return length ? sum + (uint64_t)(at[0] << 8) : sum;
}

static inline uint16_t fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

#endif
