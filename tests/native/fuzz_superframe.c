/* One super-frame, cut and put together again: whole, or as far as it came.
 *
 * What leaves must be sound by its own lengths, have a true checksum once it is completed, and hold the bytes of the
 * payload from where it says it begins. No byte leaves twice, and of those slices that a run could be made of none
 * is missing. */
#include "script.h"

enum { MOST = MAX_FRAME_BYTES + 200 };

struct whole {
    struct shape shape;
    uint8_t bytes[MOST];
    size_t length;
    bool left[MOST];
    size_t left_bytes;
};

static struct whole whole;
static uint8_t got[MOST];

static uint16_t sum_of(const struct shape *shape, const uint8_t *frame, size_t length)
{
    uint64_t pseudo = length - shape->transport_at + (shape->is_udp ? 17 : 6);
    pseudo = shape->is_ipv6 ? add_words(pseudo, frame + shape->ip_at + 8, 32)
                            : add_words(pseudo, frame + shape->ip_at + 12, 8);
    return fold(add_words(pseudo, frame + shape->transport_at, length - shape->transport_at));
}

/* From which byte of the payload a run is, by its own headers. */
static size_t start_of(const struct shape *shape, const uint8_t *frame, size_t payload)
{
    if (!shape->is_udp)
        return get_u32(frame + shape->transport_at + 4) - get_u32(whole.bytes + whole.shape.transport_at + 4);
    for (size_t start = 0; start + payload <= whole.length - whole.shape.headers; start += whole.shape.gso_size)
        if (!whole.left[start] &&
            memcmp(frame + shape->headers, whole.bytes + whole.shape.headers + start, payload) == 0)
            return start;
    return MOST;
}

static void take_super_frame(void *context, struct iovec *parts, int count, struct view headers, size_t bytes)
{
    struct shape shape;
    size_t length = 0;
    uint8_t vnet[VNET_BYTES];
    (void)context;
    MUST(count >= 2 && parts[0].iov_len == VNET_BYTES);
    memcpy(vnet, parts[0].iov_base, VNET_BYTES);
    for (int part = 1; part < count; length += parts[part++].iov_len) {
        MUST(length + parts[part].iov_len <= sizeof got);
        memcpy(got + length, parts[part].iov_base, parts[part].iov_len);
    }
    MUST(length == bytes && is_sound(vnet, got, length, &shape) && headers.length == shape.headers);
    MUST(memcmp(headers.bytes, got, headers.length) == 0 && shape.headers == whole.shape.headers);
    size_t payload = length - shape.headers, start = start_of(&shape, got, payload);
    MUST(start + payload <= whole.length - whole.shape.headers);
    MUST(memcmp(got + shape.headers, whole.bytes + whole.shape.headers + start, payload) == 0);
    for (size_t at = start; at < start + payload; at++) {
        MUST(!whole.left[at]);
        whole.left[at] = true;
    }
    whole.left_bytes += payload;
    if (payload < whole.length - whole.shape.headers) {
        MUST(complete_checksum(vnet, got, length) && sum_of(&shape, got, length) == 0xffff);
        if (!shape.is_udp)
            MUST(start == 0 || (got[shape.transport_at + 13] & 0x80) == 0);
        if (!shape.is_ipv6)
            MUST(fold(add_words(0, got + shape.ip_at, shape.transport_at - shape.ip_at)) == 0xffff);
    }
}

static void take_other(void *context, struct iovec *parts, int count, size_t bytes)
{
    (void)context, (void)parts, (void)count, (void)bytes;
    MUST(false);
}

/* As out.c cuts it. */
static size_t cut(size_t room, size_t *first)
{
    const struct shape *shape = &whole.shape;
    size_t datagrams = shape->is_udp && room > shape->headers ? (room - shape->headers) / shape->gso_size : 0;
    size_t count = (whole.length + room - 1) / room, each = (whole.length + count - 1) / count;
    *first = datagrams > 0 ? shape->headers + datagrams * shape->gso_size : each;
    return datagrams > 0 ? datagrams * shape->gso_size : each;
}

static void bring(struct script *script, const uint8_t vnet[VNET_BYTES])
{
    static uint8_t record[SLICE_HEAD_BYTES + MOST];
    struct reassembly reassembly = {0};
    struct receiver receiver = {NULL, take_other, take_super_frame, take_other};
    size_t room = 400 + next_u16(script) % 9000, first, each = cut(room, &first);
    size_t count = whole.length <= first ? 1 : 1 + (whole.length - first + each - 1) / each, came = 0;
    bool had[MAX_SLICES] = {0};
    double now = 1;
    if (count > MAX_SLICES || first < whole.shape.headers)
        return;
    record[0] = 2;
    record[2] = (uint8_t)count;
    record[3] = VNET_FLAG;
    put_u32(record + 4, 7);
    memcpy(record + SLICE_VNET_AT, vnet, VNET_BYTES);
    uint8_t how = next_u8(script);
    for (size_t rest = count; rest > 0; rest--) {
        size_t index = how & 1 ? rest - 1 : count - rest, at = index == 0 ? 0 : first + (index - 1) * each;
        size_t length = index == 0 ? first : each;
        uint8_t luck = how & 2 ? next_u8(script) : 0;
        length = whole.length - at < length ? whole.length - at : length;
        if (luck % 8 == 7)
            continue;
        if (luck % 8 == 6)
            reassembly_handle_timeout(&reassembly, now += 0.006, &receiver);
        record[1] = (uint8_t)index;
        memcpy(record + SLICE_HEAD_BYTES, whole.bytes + at, length);
        reassembly_take(&reassembly, record, SLICE_HEAD_BYTES + length, now, &receiver);
        had[index] = true;
        came++;
    }
    reassembly_handle_timeout(&reassembly, now + 0.006, &receiver);
    MUST(reassembly.dropped == 0);
    MUST(had[0] || whole.left_bytes == 0);
    size_t payload = whole.length - whole.shape.headers;
    if (came == count)
        MUST(whole.left_bytes == payload || whole.shape.is_udp || reassembly.malformed != 0);
    if (had[0] && reassembly.malformed == 0 && !whole.shape.is_udp)
        for (size_t index = 0; index < count; index++) {
            size_t at = index == 0 ? whole.shape.headers : first + (index - 1) * each;
            if (had[index] && at < whole.length && at >= whole.shape.headers)
                MUST(whole.left[at - whole.shape.headers]);
        }
    reassembly_free(&reassembly);
    MUST(reassembly.count == 0 && reassembly.waiting_bytes == 0 && reassembly.last == NULL);
}

static void try_bytes(struct script *script)
{
    uint8_t vnet[VNET_BYTES], frame[512];
    struct shape shape;
    size_t length = next_u16(script) % sizeof frame;
    next_bytes(script, vnet, VNET_BYTES);
    next_bytes(script, frame, length);
    uint8_t *tight = malloc(length + (length == 0));
    memcpy(tight, frame, length);
    if (shape_of(&shape, vnet, (struct view){tight, length}, length)) {
        MUST(shape.headers < length && shape.headers <= MAX_HEADERS && shape.ip_at < shape.transport_at);
        MUST(is_countable(&shape, length - shape.headers));
        mend_headers(&shape, tight, 0, length - shape.headers, true);
    } else if (shape_of(&shape, vnet, (struct view){tight, length}, 0)) {
        MUST(shape.headers <= length && length <= shape.ends_at && shape.headers <= MAX_HEADERS);
    }
    if (complete_checksum(vnet, tight, length))
        MUST((size_t)get_le16(vnet + 6) + get_le16(vnet + 8) + 2 <= length);
    free(tight);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
    struct script script = {input, length};
    uint8_t vnet[VNET_BYTES], how = next_u8(&script);
    if (how & 1) {
        try_bytes(&script);
        return 0;
    }
    uint8_t kind = next_u8(&script), flags = next_u8(&script);
    uint16_t gso_size = next_u16(&script);
    size_t payload = next_u16(&script) % (how & 8 ? 65400 : 8192);
    memset(whole.left, 0, payload + 200);
    whole.left_bytes = 0;
    whole.length = write_super_frame(vnet, whole.bytes, kind, flags, payload, gso_size,
                                     (const uint8_t *)"\x02\0\0\0\0\1", (const uint8_t *)"\x02\0\0\0\0\2",
                                     (const uint8_t *)"\x0a\0\0\1", (const uint8_t *)"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1");
    for (unsigned spoils = how >> 1 & 3; spoils > 0; spoils--) {
        uint8_t at = next_u8(&script), bits = next_u8(&script);
        if (at < VNET_BYTES)
            vnet[at] ^= bits;
        else if (at - VNET_BYTES < 100 && (size_t)at - VNET_BYTES < whole.length)
            whole.bytes[at - VNET_BYTES] ^= bits;
    }
    if (whole.length <= MAX_FRAME_BYTES &&
        shape_of(&whole.shape, vnet, (struct view){whole.bytes, whole.length}, whole.length))
        bring(&script, vnet);
    return 0;
}
