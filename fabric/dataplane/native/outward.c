/* The way out: what waits at the device is queued, and leaves in batches. */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "threads.h"

enum {
    BATCH_BYTES = 65536, /* a super-frame at a time: whoever waits behind it waits no longer than that */
    DOWN_MS = 50,
};

/* Reads what waits at the device, up to a bound; false where nothing more waits. */
static bool fill(struct threads *threads)
{
    struct queue *queue = &threads->outward.queue;
    size_t bytes = 0;
    double instant = boot_time();
    for (int count = 0; count < 2 * BATCH && bytes < 4 * BATCH_BYTES; count++) {
        struct slot_of_frame *slot = queue_slot(queue);
        ssize_t length =
            read(threads->tap, slot->bytes + SLOT_HEADROOM - VNET_BYTES, SLOT_BYTES - SLOT_HEADROOM + VNET_BYTES);
        if (length <= 0) {
            queue_give_back(queue, slot);
            if (length < 0 && errno == EINTR)
                continue;
            if (length < 0 && errno != EAGAIN && errno != EIO) /* EIO: the device is down */
                threads_fail(threads, errno);
            return false;
        }
        slot->length = (size_t)length;
        bytes += (size_t)length;
        queue_put(queue, slot, instant);
    }
    return true;
}

static void take_batch(struct outward *outward)
{
    size_t bytes = 0;
    double instant = boot_time();
    for (outward->count = 0; outward->count < BATCH && bytes < BATCH_BYTES; outward->count++) {
        struct slot_of_frame *slot = queue_take(&outward->queue, instant);
        if (slot == NULL)
            return;
        outward->batch[outward->count] = slot;
        bytes += slot->length;
    }
}

/* Frames become datagrams in the outbox; true where core has something to hear of it. */
static bool seal_batch(struct lane *lane, struct outward *outward)
{
    double instant = boot_time();
    pthread_mutex_lock(&lane->out);
    for (int at = 0; at < outward->count; at++) {
        struct slot_of_frame *slot = outward->batch[at];
        uint8_t *frame = slot->bytes + SLOT_HEADROOM, vnet[VNET_BYTES];
        if (slot->length < VNET_BYTES)
            continue;
        memcpy(vnet, frame - VNET_BYTES, VNET_BYTES); /* a record's head will be written over it */
        lane_send_frame(lane, vnet, frame, slot->length - VNET_BYTES, instant, &outward->outbox);
    }
    lane_flush(lane, instant, &outward->outbox);
    bool has_news = lane->touched_out != NULL;
    pthread_mutex_unlock(&lane->out);
    for (int at = 0; at < outward->count; at++)
        queue_give_back(&outward->queue, outward->batch[at]);
    return has_news;
}

static void settle_drops(struct lane *lane, struct outward *outward, uint64_t drops[DROPS])
{
    drops[DROP_QUEUE] += outward->queue.dropped - outward->told;
    outward->told = outward->queue.dropped;
    pthread_mutex_lock(&lane->out);
    for (int reason = 0; reason < DROPS; reason++)
        lane->out_drops[reason] += drops[reason];
    pthread_mutex_unlock(&lane->out);
}

/* Sends one batch, with the turn; false where nothing is left to send. */
static bool go_once(struct threads *threads)
{
    struct outward *outward = &threads->outward;
    uint64_t drops[DROPS] = {0};
    bool more = fill(threads);
    take_batch(outward);
    if (outward->count == 0)
        return more;
    bool has_news = seal_batch(threads->lane, outward);
    post_outbox(threads, drops);
    settle_drops(threads->lane, outward, drops);
    if (has_news)
        lane_tell_news(threads->lane);
    return true;
}

void send_answers(struct threads *threads)
{
    if (pthread_mutex_trylock(&threads->outward.turn) != 0)
        return;
    go_once(threads);
    bool has_rest = threads->outward.queue.bytes > 0;
    pthread_mutex_unlock(&threads->outward.turn);
    if (has_rest) /* of which the device says nothing any more */
        eventfd_write(threads->rest_event, 1);
}

static bool go_on(struct threads *threads)
{
    pthread_mutex_lock(&threads->outward.turn);
    bool more = go_once(threads);
    pthread_mutex_unlock(&threads->outward.turn);
    return more && threads->failure == 0 && !threads->is_stopping;
}

void *run_out(void *context)
{
    struct threads *threads = context;
    struct pollfd waits[] = {{.fd = threads->tap, .events = POLLIN},
                             {.fd = threads->stop_event, .events = POLLIN},
                             {.fd = threads->rest_event, .events = POLLIN}};
    eventfd_t rung;
    while (threads->failure == 0) {
        if (poll(waits, 3, -1) < 0 && errno != EINTR)
            threads_fail(threads, errno);
        if (threads->is_stopping)
            break;
        eventfd_read(threads->rest_event, &rung);
        while (go_on(threads))
            ;
        if ((waits[0].revents & (POLLERR | POLLHUP)) != 0)
            poll(waits + 1, 1, DOWN_MS); /* the device is down: that says nothing when it is up again */
    }
    return NULL;
}
