/* Short queues: what waits is bounded by time, sparse flows go first, and a bulk flow that stands is cut at its head.
 *
 * FQ-CoDel (RFC 8290) over a few flows, CoDel (RFC 8289) for what comes in. Pure: time comes as an argument. */
#ifndef FABRIC_QUEUE_H
#define FABRIC_QUEUE_H

#include "bytes.h"
#include "reassembly.h"

enum {
    FLOWS = 64,
    SLOTS = 256,
    SLOT_HEADROOM = 64,
    SLOT_BYTES = SLOT_HEADROOM + MAX_FRAME_BYTES + 43, /* a multiple of 64 */
    QUANTUM_BYTES = 16384,     /* a flow's turn: a quarter of a super-frame, and ten plain frames */
    MAX_QUEUED_BYTES = 4 << 20,
    STANDING_BYTES = 65536,    /* no queue stands on one super-frame */
};

/* RFC 8289 section 4.4 wants a target of 5 to 10 % of the interval, and an interval of a round trip. It was made for
 * links of the internet; what queues here is a processor at gigabits a second, with round trips of a millisecond. */
static const double TARGET_S = 0.001, INTERVAL_S = 0.02;

/* Whether to drop, from how long each that leaves has waited. */
struct codel {
    double first_above, next_drop;
    unsigned drops, last_drops;
    bool is_dropping;
};

bool codel_drops(struct codel *codel, double waited, double now, size_t backlog_bytes);

/* The queue was found empty: it does not stand, however long the last of it has waited for a processor. */
void codel_rest(struct codel *codel);

/* A frame behind its vnet header, at `bytes + SLOT_HEADROOM - VNET_BYTES`. */
struct slot_of_frame {
    struct slot_of_frame *next;
    double since;
    size_t length; /* both together */
    uint8_t *bytes;
};

struct flow {
    struct slot_of_frame *first, *last;
    size_t bytes;
    long credit;
    bool is_listed;
    struct flow *next;
    struct codel codel;
};

struct flow_list {
    struct flow *first, *last;
};

struct queue {
    struct flow flows[FLOWS];
    struct flow_list fresh, old;
    struct slot_of_frame slots[SLOTS];
    struct slot_of_frame *free;
    uint8_t *memory;
    size_t bytes;
    uint64_t dropped, marked;
};

bool queue_init(struct queue *queue);
void queue_free(struct queue *queue);

/* A slot to read a frame into; where all are taken, that of the oldest frame of the longest flow. */
struct slot_of_frame *queue_slot(struct queue *queue);

void queue_put(struct queue *queue, struct slot_of_frame *slot, double now);

/* The next frame to send, to be given back after; NULL where none waits. */
struct slot_of_frame *queue_take(struct queue *queue, double now);

void queue_give_back(struct queue *queue, struct slot_of_frame *slot);

#endif
