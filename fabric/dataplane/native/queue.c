#include "queue.h"

#include <math.h>
#include <stdlib.h>

static double next_after(double time, unsigned drops)
{
    return time + INTERVAL_S / sqrt(drops);
}

static bool stands(struct codel *codel, double waited, double now, size_t backlog_bytes)
{
    if (waited < TARGET_S || backlog_bytes <= STANDING_BYTES) {
        codel->first_above = 0;
        return false;
    }
    if (codel->first_above == 0) {
        codel->first_above = now + INTERVAL_S;
        return false;
    }
    return now >= codel->first_above;
}

/* What RFC 8289's `dodequeue` and `dequeue` do where nothing waits. */
void codel_rest(struct codel *codel)
{
    codel->first_above = 0;
    codel->is_dropping = false;
}

bool codel_drops(struct codel *codel, double waited, double now, size_t backlog_bytes)
{
    bool is_standing = stands(codel, waited, now, backlog_bytes);
    if (!is_standing) {
        codel->is_dropping = false;
        return false;
    }
    if (codel->is_dropping) {
        if (now < codel->next_drop)
            return false;
        codel->drops++;
        codel->next_drop = next_after(codel->next_drop, codel->drops);
        return true;
    }
    /* Begins near the rate that was right the last time, if that was not long ago. */
    unsigned more = codel->drops - codel->last_drops;
    codel->is_dropping = true;
    codel->drops = more > 1 && now - codel->next_drop < 16 * INTERVAL_S ? more : 1;
    codel->next_drop = next_after(now, codel->drops);
    codel->last_drops = codel->drops;
    return true;
}

bool queue_init(struct queue *queue)
{
    memset(queue, 0, sizeof *queue);
    queue->memory = malloc((size_t)SLOTS * SLOT_BYTES); /* untouched pages cost nothing */
    if (queue->memory == NULL)
        return false;
    for (size_t at = SLOTS; at-- > 0;) {
        queue->slots[at].bytes = queue->memory + at * SLOT_BYTES;
        queue_give_back(queue, &queue->slots[at]);
    }
    return true;
}

void queue_free(struct queue *queue)
{
    free(queue->memory);
    queue->memory = NULL;
}

void queue_give_back(struct queue *queue, struct slot_of_frame *slot)
{
    slot->next = queue->free;
    queue->free = slot;
}

static void list_append(struct flow_list *list, struct flow *flow)
{
    flow->next = NULL;
    if (list->first == NULL)
        list->first = flow;
    else
        list->last->next = flow;
    list->last = flow;
}

static struct flow *list_take(struct flow_list *list)
{
    struct flow *flow = list->first;
    list->first = flow->next;
    return flow;
}

static struct slot_of_frame *take_first(struct queue *queue, struct flow *flow)
{
    struct slot_of_frame *slot = flow->first;
    flow->first = slot->next;
    flow->bytes -= slot->length;
    queue->bytes -= slot->length;
    return slot;
}

static struct slot_of_frame *drop_from_longest(struct queue *queue)
{
    struct flow *longest = &queue->flows[0];
    for (size_t at = 1; at < FLOWS; at++)
        if (queue->flows[at].bytes > longest->bytes)
            longest = &queue->flows[at];
    queue->dropped++;
    return take_first(queue, longest);
}

struct slot_of_frame *queue_slot(struct queue *queue)
{
    if (queue->free == NULL || queue->bytes > MAX_QUEUED_BYTES)
        return drop_from_longest(queue);
    struct slot_of_frame *slot = queue->free;
    queue->free = slot->next;
    return slot;
}

/* Where the IP header of an untagged or tagged frame begins; 0 for none. */
static size_t ip_at(struct view frame)
{
    size_t at = 12;
    for (int tags = 0; tags <= 2; tags++, at += 4) {
        const uint8_t *kind = view_at(frame, at, 2);
        if (kind == NULL)
            return 0;
        if (get_u16(kind) == 0x0800 || get_u16(kind) == 0x86dd)
            return at + 2;
    }
    return 0;
}

/* Addresses, protocol and ports: enough to tell flows apart, and whatever lies there in a fragment. */
static size_t flow_of(struct view frame)
{
    uint64_t sum = 0;
    size_t at = ip_at(frame), addresses = 12, length = 8, ports = 20;
    const uint8_t *ip = at == 0 ? NULL : view_at(frame, at, 24);
    if (ip == NULL) {
        const uint8_t *macs = view_at(frame, 0, 14);
        sum = macs == NULL ? 0 : add_words(0, macs, 14);
    } else {
        if (ip[0] >> 4 == 6) {
            addresses = 8;
            length = 32;
            ports = 40;
        }
        const uint8_t *from = view_at(frame, at + addresses, length), *to = view_at(frame, at + ports, 4);
        sum = (ip[0] >> 4 == 6 ? ip[6] : ip[9]) + (from == NULL ? 0 : add_words(0, from, length));
        if (to != NULL)
            sum += (uint64_t)get_u32(to) << 16;
    }
    return (size_t)(sum * 0x9e3779b97f4a7c15u >> 32) % FLOWS;
}

void queue_put(struct queue *queue, struct slot_of_frame *slot, double now)
{
    uint8_t *frame = slot->bytes + SLOT_HEADROOM;
    size_t length = slot->length > VNET_BYTES ? slot->length - VNET_BYTES : 0;
    struct flow *flow = &queue->flows[flow_of((struct view){frame, length})];
    slot->since = now;
    slot->next = NULL;
    if (flow->first == NULL)
        flow->first = slot;
    else
        flow->last->next = slot;
    flow->last = slot;
    flow->bytes += slot->length;
    queue->bytes += slot->length;
    if (!flow->is_listed) {
        flow->is_listed = true;
        flow->credit = QUANTUM_BYTES;
        list_append(&queue->fresh, flow);
    }
}

/* Says to the receiver that a queue stands (RFC 3168), where both ends can hear it; false where they can't. */
static bool mark(uint8_t *frame, size_t length)
{
    size_t at = ip_at((struct view){frame, length});
    uint8_t *ip = frame + at;
    if (at == 0 || view_at((struct view){frame, length}, at, 20) == NULL)
        return false;
    if (ip[0] >> 4 == 6) {
        if ((ip[1] & 0x30) == 0)
            return false;
        ip[1] |= 0x30;
        return true;
    }
    if ((ip[1] & 3) == 0 || ip[0] >> 4 != 4)
        return false;
    /* The sum without the old word, and with the new one: RFC 1624, equation 3. */
    uint16_t before = get_u16(ip);
    ip[1] |= 3;
    put_u16(ip + 10, (uint16_t)~fold((uint64_t)(uint16_t)~get_u16(ip + 10) + (uint16_t)~before + get_u16(ip)));
    return true;
}

/* The next frame of a flow that is not to be dropped. */
static struct slot_of_frame *take_from(struct queue *queue, struct flow *flow, double now)
{
    while (flow->first != NULL) {
        struct slot_of_frame *slot = take_first(queue, flow);
        if (!codel_drops(&flow->codel, now - slot->since, now, flow->bytes))
            return slot;
        if (slot->length > VNET_BYTES && mark(slot->bytes + SLOT_HEADROOM, slot->length - VNET_BYTES)) {
            queue->marked++;
            return slot;
        }
        queue->dropped++;
        queue_give_back(queue, slot);
    }
    return NULL;
}

struct slot_of_frame *queue_take(struct queue *queue, double now)
{
    for (;;) {
        struct flow_list *list = queue->fresh.first != NULL ? &queue->fresh : &queue->old;
        struct flow *flow = list->first;
        if (flow == NULL)
            return NULL;
        if (flow->credit <= 0) {
            flow->credit += QUANTUM_BYTES;
            list_append(&queue->old, list_take(list));
            continue;
        }
        struct slot_of_frame *slot = take_from(queue, flow, now);
        if (slot != NULL) {
            flow->credit -= (long)slot->length;
            return slot;
        }
        /* A fresh flow that is empty goes among the old ones once, or it would be fresh at each of its frames. */
        list_take(list);
        if (list == &queue->fresh && queue->old.first != NULL)
            list_append(&queue->old, flow);
        else
            flow->is_listed = false;
    }
}
