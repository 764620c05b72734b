#include "reassembly.h"

#include <stdlib.h>

struct piece {
    uint32_t at; /* in `bytes` */
    uint16_t length;
    bool had, left;
};

/* Slices stand in `bytes` as they came: in order, nearly always. */
struct partial {
    struct partial *next;
    uint32_t id;
    uint8_t count, flags, vnet[VNET_BYTES];
    bool hurried;
    unsigned had, left;
    double deadline, latest;
    uint8_t *bytes;
    size_t length, capacity;
    struct piece pieces[];
};

static struct partial *find(const struct reassembly *reassembly, uint32_t id)
{
    struct partial *partial = reassembly->first;
    while (partial != NULL && partial->id != id)
        partial = partial->next;
    return partial;
}

static void forget(struct reassembly *reassembly, struct partial *partial)
{
    struct partial **link = &reassembly->first, *before = NULL;
    while (*link != partial) {
        before = *link;
        link = &before->next;
    }
    *link = partial->next;
    if (reassembly->last == partial)
        reassembly->last = before;
    reassembly->count--;
    reassembly->waiting_bytes -= partial->length;
    free(partial->bytes);
    free(partial);
}

static void give_up(struct reassembly *reassembly, struct partial *partial)
{
    reassembly->dropped++;
    forget(reassembly, partial);
}

static struct partial *begin(struct reassembly *reassembly, const uint8_t *slice, double now)
{
    uint8_t count = slice[2];
    struct partial *partial = calloc(1, sizeof *partial + count * sizeof *partial->pieces);
    if (partial == NULL)
        return NULL;
    partial->id = get_u32(slice + 4);
    partial->count = count;
    partial->flags = slice[3];
    partial->deadline = now + EXPIRY_S;
    memcpy(partial->vnet, slice + SLICE_VNET_AT, VNET_BYTES);
    if (reassembly->last == NULL)
        reassembly->first = partial;
    else
        reassembly->last->next = partial;
    reassembly->last = partial;
    reassembly->count++;
    return partial;
}

static bool is_like(const struct partial *partial, const uint8_t *slice)
{
    return partial->count == slice[2] && partial->flags == slice[3] &&
           memcmp(partial->vnet, slice + SLICE_VNET_AT, VNET_BYTES) == 0;
}

static bool make_room(struct partial *partial, size_t length)
{
    size_t needed = partial->length + length, expected = partial->count * length;
    if (needed <= partial->capacity)
        return true;
    size_t capacity = expected > needed && expected <= MAX_FRAME_BYTES ? expected : needed;
    if (capacity < 2 * partial->capacity)
        capacity = 2 * partial->capacity;
    uint8_t *bytes = realloc(partial->bytes, capacity);
    if (bytes == NULL)
        return false;
    partial->bytes = bytes;
    partial->capacity = capacity;
    return true;
}

/* False where it got too long, or memory is short. */
static bool add(struct reassembly *reassembly, struct partial *partial, const uint8_t *slice, size_t length, double now)
{
    size_t limit = partial->flags == CONTROL_FLAG ? MAX_CONTROL_BYTES : MAX_FRAME_BYTES;
    if (partial->length + length > limit || !make_room(partial, length))
        return false;
    memcpy(partial->bytes + partial->length, slice + SLICE_HEAD_BYTES, length);
    partial->pieces[slice[1]] = (struct piece){.at = (uint32_t)partial->length, .length = (uint16_t)length, .had = true};
    partial->length += length;
    reassembly->waiting_bytes += length;
    partial->had++;
    partial->latest = now;
    return true;
}

/* Appends the bytes from `at` on to `parts`, to the last one of them where it ends there. */
static int append(struct iovec *parts, int count, uint8_t *at, size_t length)
{
    if (length == 0)
        return count;
    if (count > 0 && (uint8_t *)parts[count - 1].iov_base + parts[count - 1].iov_len == at) {
        parts[count - 1].iov_len += length;
        return count;
    }
    parts[count] = (struct iovec){at, length};
    return count + 1;
}

/* The slices from `from` to before `to`, but for the first `skip` bytes and any beyond `bytes`. */
static int gather(const struct partial *partial, int from, int to, size_t skip, size_t bytes, struct iovec *parts,
                  int count)
{
    for (int index = from; index < to && bytes > 0; index++) {
        size_t length = partial->pieces[index].length, skipped = skip < length ? skip : length;
        size_t wanted = length - skipped < bytes ? length - skipped : bytes;
        count = append(parts, count, partial->bytes + partial->pieces[index].at + skipped, wanted);
        skip -= skipped;
        bytes -= wanted;
    }
    return count;
}

static void take_whole(struct reassembly *reassembly, struct partial *partial, const struct receiver *receiver)
{
    struct iovec parts[MAX_PARTS];
    if (partial->flags != VNET_FLAG) {
        int count = gather(partial, 0, partial->count, 0, partial->length, parts, 0);
        (partial->flags == CONTROL_FLAG ? receiver->take_control : receiver->take_frame)(receiver->context, parts,
                                                                                         count, partial->length);
        return;
    }
    uint8_t vnet[VNET_BYTES], joined[MAX_HEADERS + 1];
    struct shape shape;
    int count = gather(partial, 0, partial->count, 0, partial->length, parts + 1, 0);
    /* The headers in one piece, also where a hostile sender has cut them up. */
    size_t seen = 0;
    for (int at = 1; at <= count && seen < sizeof joined; at++) {
        size_t wanted = sizeof joined - seen < parts[at].iov_len ? sizeof joined - seen : parts[at].iov_len;
        memcpy(joined + seen, parts[at].iov_base, wanted);
        seen += wanted;
    }
    if (!shape_of(&shape, partial->vnet, (struct view){joined, seen}, partial->length)) {
        reassembly->malformed++;
        return;
    }
    header_for(&shape, partial->length - shape.headers, true, vnet);
    parts[0] = (struct iovec){vnet, VNET_BYTES};
    receiver->take_super_frame(receiver->context, parts, count + 1, (struct view){joined, shape.headers},
                               partial->length);
}

/* Bytes `from` to `to` of the payload become a super-frame; `skip` bytes of slice `first` lie before `from`. */
static void take_run(const struct partial *partial, const struct shape *shape, int first, int end, size_t skip,
                     size_t from, size_t to, bool is_last, const struct receiver *receiver)
{
    struct iovec parts[MAX_PARTS];
    uint8_t vnet[VNET_BYTES], headers[MAX_HEADERS];
    memcpy(headers, partial->bytes + partial->pieces[0].at, shape->headers);
    mend_headers(shape, headers, from, to - from, is_last);
    header_for(shape, to - from, from == 0, vnet);
    parts[0] = (struct iovec){vnet, VNET_BYTES};
    parts[1] = (struct iovec){headers, shape->headers};
    int count = gather(partial, first, end, skip, to - from, parts + 2, 0);
    receiver->take_super_frame(receiver->context, parts, count + 2, (struct view){headers, shape->headers},
                               shape->headers + to - from);
}

/* How long slice `index` has to be when it is not the last. */
static size_t length_of(const struct shape *shape, size_t first_bytes, int index)
{
    size_t payload = first_bytes - shape->headers;
    return index > 0 && shape->is_udp && payload > 0 && payload % shape->gso_size == 0 ? payload : first_bytes;
}

static size_t start_of(const struct shape *shape, size_t first_bytes, int index)
{
    return index == 0 ? 0 : first_bytes + (size_t)(index - 1) * length_of(shape, first_bytes, index);
}

/* Lets the run of slices that begins with `index` leave; returns where it ended, or -1 where something is wrong. */
static int leave_run(struct reassembly *reassembly, struct partial *partial, const struct shape *shape, int index,
                     const struct receiver *receiver)
{
    size_t first_bytes = partial->pieces[0].length, bytes = 0;
    int end = index;
    for (; end < partial->count && partial->pieces[end].had && !partial->pieces[end].left; end++) {
        struct piece *piece = &partial->pieces[end];
        if (end < partial->count - 1 && piece->length != length_of(shape, first_bytes, end)) {
            reassembly->dropped++;
            return -1;
        }
        bytes += piece->length;
        piece->left = true;
        partial->left++;
    }
    bool is_last = end == partial->count;
    size_t skip = index == 0 ? shape->headers : 0;
    size_t from = start_of(shape, first_bytes, index) + skip - shape->headers, to = from + bytes - skip;
    if (shape->is_udp) {
        size_t early = (shape->gso_size - from % shape->gso_size) % shape->gso_size;
        from += early;
        skip += early;
        to -= is_last || to < from ? 0 : to % shape->gso_size;
    }
    if (from >= to)
        return end;
    if (shape->headers + to > shape->ends_at || !is_countable(shape, to - from)) {
        reassembly->malformed++;
        return -1;
    }
    take_run(partial, shape, index, end, skip, from, to, is_last, receiver);
    return end;
}

/* Lets all leave that can; false where the whole is of no use any more. */
static bool leave(struct reassembly *reassembly, struct partial *partial, const struct receiver *receiver)
{
    struct shape shape;
    if (!partial->pieces[0].had)
        return true;
    struct view head = {partial->bytes + partial->pieces[0].at, partial->pieces[0].length};
    if (!shape_of(&shape, partial->vnet, head, 0)) {
        reassembly->malformed++;
        return false;
    }
    for (int index = 0; index < partial->count; index++) {
        if (!partial->pieces[index].had || partial->pieces[index].left)
            continue;
        index = leave_run(reassembly, partial, &shape, index, receiver);
        if (index < 0)
            return false;
    }
    return partial->left < partial->count;
}

static void hurry(struct reassembly *reassembly, struct partial *partial, const struct receiver *receiver)
{
    partial->hurried = true;
    if (!leave(reassembly, partial, receiver))
        forget(reassembly, partial);
}

static bool is_waiting(const struct partial *partial)
{
    return partial->flags == VNET_FLAG && !partial->hurried;
}

static void hurry_earlier(struct reassembly *reassembly, uint32_t id, const struct receiver *receiver)
{
    for (struct partial *partial = reassembly->first, *next; partial != NULL; partial = next) {
        next = partial->next;
        if (is_waiting(partial) && partial->id != id && id - partial->id < UINT32_C(1) << 31)
            hurry(reassembly, partial, receiver);
    }
}

void reassembly_take(struct reassembly *reassembly, const uint8_t *slice, size_t length, double now,
                     const struct receiver *receiver)
{
    uint32_t id = get_u32(slice + 4);
    uint8_t index = slice[1], count = slice[2];
    reassembly_handle_timeout(reassembly, now, receiver);
    if (slice[3] == VNET_FLAG && (index >= LATER_ENOUGH || index == count - 1))
        hurry_earlier(reassembly, id, receiver);
    struct partial *partial = find(reassembly, id);
    if (partial == NULL && (partial = begin(reassembly, slice, now)) == NULL) {
        reassembly->dropped++;
        return;
    }
    bool is_double = partial->pieces[index < partial->count ? index : 0].had;
    if (is_like(partial, slice) && is_double && partial->hurried)
        return;
    if (!is_like(partial, slice) || is_double || !add(reassembly, partial, slice, length - SLICE_HEAD_BYTES, now)) {
        give_up(reassembly, partial);
        return;
    }
    if (partial->hurried) {
        if (!leave(reassembly, partial, receiver))
            forget(reassembly, partial);
    } else if (partial->had == partial->count) {
        take_whole(reassembly, partial, receiver);
        forget(reassembly, partial);
    }
    while (reassembly->count > MAX_PARTIAL || reassembly->waiting_bytes > MAX_WAITING_BYTES)
        give_up(reassembly, reassembly->first);
}

void reassembly_handle_timeout(struct reassembly *reassembly, double now, const struct receiver *receiver)
{
    while (reassembly->first != NULL && reassembly->first->deadline <= now)
        give_up(reassembly, reassembly->first);
    for (struct partial *partial = reassembly->first, *next; partial != NULL; partial = next) {
        next = partial->next;
        if (is_waiting(partial) && partial->latest + HURRY_S <= now)
            hurry(reassembly, partial, receiver);
    }
}

double reassembly_next_timeout(const struct reassembly *reassembly)
{
    double next = reassembly->first == NULL ? 0 : reassembly->first->deadline;
    for (const struct partial *partial = reassembly->first; partial != NULL; partial = partial->next)
        if (is_waiting(partial) && partial->latest + HURRY_S < next)
            next = partial->latest + HURRY_S;
    return next;
}

void reassembly_free(struct reassembly *reassembly)
{
    while (reassembly->first != NULL)
        forget(reassembly, reassembly->first);
}
