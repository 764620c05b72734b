/* What queue.c promises, checked with a clock of our own. Each check is a function; the first that fails is named. */
#include <stdio.h>
#include <stdlib.h>

#include "../../fabric/dataplane/native/queue.h"

#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            printf("%s, line %d: %s\n", __func__, __LINE__, #what);                                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static struct queue queue;

/* An IPv4 TCP frame of `length` bytes from port `port`, ECN-capable where `ect`. */
static void put(uint16_t port, size_t length, bool ect, double now)
{
    struct slot_of_frame *slot = queue_slot(&queue);
    uint8_t *frame = slot->bytes + SLOT_HEADROOM, *ip = frame + 14;
    memset(frame - VNET_BYTES, 0, VNET_BYTES + length);
    put_u16(frame + 12, 0x0800);
    ip[0] = 0x45;
    ip[1] = ect ? 2 : 0;
    ip[9] = 6;
    put_u32(ip + 12, 0x64400001);
    put_u32(ip + 16, 0x64400002);
    put_u16(ip + 10, (uint16_t)~fold(add_words(0, ip, 20)));
    put_u16(ip + 20, port);
    slot->length = VNET_BYTES + length;
    queue_put(&queue, slot, now);
}

static uint16_t port_of(const struct slot_of_frame *slot)
{
    return get_u16(slot->bytes + SLOT_HEADROOM + 34);
}

/* The port of the next frame, or 0 where none waits. */
static uint16_t take(double now)
{
    struct slot_of_frame *slot = queue_take(&queue, now);
    uint16_t port = slot == NULL ? 0 : port_of(slot);
    if (slot != NULL)
        queue_give_back(&queue, slot);
    return port;
}

static void begin(void)
{
    queue_free(&queue);
    CHECK(queue_init(&queue));
}

static void test_frames_of_a_flow_keep_their_order(void)
{
    begin();
    for (size_t length = 100; length < 110; length++)
        put(1, length, false, 0);
    for (size_t length = 100; length < 110; length++) {
        struct slot_of_frame *slot = queue_take(&queue, 0);
        CHECK(slot != NULL && slot->length == VNET_BYTES + length);
        queue_give_back(&queue, slot);
    }
    CHECK(take(0) == 0);
}

static void test_a_sparse_flow_goes_before_a_bulk_flow_that_waits(void)
{
    begin();
    for (int at = 0; at < 20; at++)
        put(1, 58000, false, 0);
    CHECK(take(0) == 1);
    put(2, 98, false, 0);
    CHECK(take(0) == 2);
    CHECK(take(0) == 1);
}

static void test_two_bulk_flows_take_turns(void)
{
    begin();
    unsigned of[3] = {0};
    for (int at = 0; at < 20; at++) {
        put(1, 58000, false, 0);
        put(2, 58000, false, 0);
    }
    for (int at = 0; at < 20; at++)
        of[take(0)]++;
    CHECK(of[1] >= 8 && of[2] >= 8);
}

static void test_what_stands_for_an_interval_is_dropped_at_the_head_and_counted(void)
{
    begin();
    double now = 0;
    size_t taken = 0;
    for (int at = 0; at < 60; at++)
        put(1, 58000, false, now);
    while (queue.dropped == 0 && now < 1) {
        now += 0.001;
        CHECK(take(now) == 1);
        put(1, 58000, false, now - 0.01);
        taken++;
    }
    CHECK(queue.dropped == 1);
    CHECK(now >= INTERVAL_S && now < INTERVAL_S + 0.005);
    CHECK(taken < 30);
}

static void test_a_queue_that_empties_in_time_drops_nothing(void)
{
    begin();
    for (double now = 0; now < 1; now += 0.0005) {
        put(1, 58000, false, now);
        put(1, 58000, false, now);
        CHECK(take(now + 0.0004) == 1);
        CHECK(take(now + 0.0004) == 1);
    }
    CHECK(queue.dropped == 0);
}

static void test_a_burst_that_drains_within_an_interval_drops_nothing(void)
{
    begin();
    for (int at = 0; at < 40; at++)
        put(1, 58000, false, 0);
    for (int at = 0; at < 40; at++)
        CHECK(take(0.0004 * at) == 1);
    CHECK(queue.dropped == 0);
}

static void test_what_can_hear_of_congestion_is_marked_and_not_dropped(void)
{
    begin();
    double now = 0;
    for (int at = 0; at < 60; at++)
        put(1, 58000, true, now);
    while (queue.marked == 0 && now < 1) {
        now += 0.001;
        struct slot_of_frame *slot = queue_take(&queue, now);
        CHECK(slot != NULL);
        uint8_t *ip = slot->bytes + SLOT_HEADROOM + 14;
        CHECK((ip[1] & 3) == (queue.marked ? 3 : 2));
        CHECK(fold(add_words(0, ip, 20)) == 0xffff);
        queue_give_back(&queue, slot);
        put(1, 58000, true, now - 0.01);
    }
    CHECK(queue.marked == 1 && queue.dropped == 0);
}

static void test_the_longest_flow_makes_room(void)
{
    begin();
    for (int at = 0; at < 3 * SLOTS; at++)
        put(1, 58000, false, 0);
    CHECK(queue.bytes <= MAX_QUEUED_BYTES + 2 * SLOT_BYTES);
    CHECK(queue.dropped > 0);
    put(2, 98, false, 0);
    CHECK(take(0) == 1 || take(0) == 2);
    begin();
    for (int at = 0; at < 3 * SLOTS; at++)
        put(1, 60, false, 0);
    CHECK(queue.dropped == 2 * SLOTS);
    int left = 0;
    while (take(0) != 0)
        left++;
    CHECK(left == SLOTS);
}

static void test_a_socket_that_stands_is_cut_and_one_read_in_time_is_not(void)
{
    struct codel quick = {0}, slow = {0};
    unsigned quick_drops = 0, slow_drops = 0;
    for (double now = 0; now < 1; now += 0.0001) {
        quick_drops += codel_drops(&quick, 0.0002, now, SIZE_MAX);
        slow_drops += codel_drops(&slow, 0.004, now, SIZE_MAX);
    }
    CHECK(quick_drops == 0);
    CHECK(slow_drops > 20 && slow_drops < 2000);
}

static void test_a_socket_that_is_emptied_each_time_does_not_stand(void)
{
    struct codel codel = {0};
    for (double now = 0; now < 1; now += 0.01) {
        CHECK(!codel_drops(&codel, 0.005, now, SIZE_MAX));
        CHECK(!codel_drops(&codel, 0.004, now + 0.001, SIZE_MAX));
        codel_rest(&codel);
    }
}

int main(void)
{
    test_frames_of_a_flow_keep_their_order();
    test_a_sparse_flow_goes_before_a_bulk_flow_that_waits();
    test_two_bulk_flows_take_turns();
    test_what_stands_for_an_interval_is_dropped_at_the_head_and_counted();
    test_a_queue_that_empties_in_time_drops_nothing();
    test_a_burst_that_drains_within_an_interval_drops_nothing();
    test_what_can_hear_of_congestion_is_marked_and_not_dropped();
    test_the_longest_flow_makes_room();
    test_a_socket_that_stands_is_cut_and_one_read_in_time_is_not();
    test_a_socket_that_is_emptied_each_time_does_not_stand();
    queue_free(&queue);
    puts("all hold");
    return 0;
}
