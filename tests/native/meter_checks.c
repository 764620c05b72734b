/* What meter.c promises, checked with a clock of our own. Each check is a function; the first that fails is named. */
#include <stdio.h>
#include <stdlib.h>

#include "../../fabric/dataplane/native/bytes.h"
#include "../../fabric/dataplane/native/meter.h"

#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            printf("%s, line %d: %s\n", __func__, __LINE__, #what);                                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { LENGTH = 64, FLOOD = 100000 };

static struct meters meters;

static bool passes(uint8_t kind, uint32_t index, double now)
{
    uint8_t datagram[LENGTH] = {kind};
    put_u32(datagram + 4, index);
    return meters_pass(&meters, datagram, LENGTH, now);
}

/* How many of a flood pass that lasts so long. */
static int passed(uint8_t kind, uint32_t first, uint32_t step, double began, double seconds)
{
    int count = 0;
    for (uint32_t at = 0; at < FLOOD; at++)
        count += passes(kind, first + at * step, began + seconds * at / FLOOD);
    return count;
}

static void begin(void)
{
    meters = (struct meters){0};
}

static void test_what_carries_frames_is_not_metered(void)
{
    begin();
    CHECK(passed(0xf1, 7, 0, 1000, 1) == FLOOD);
    CHECK(passed(0xf3, 7, 0, 1000, 1) == FLOOD);
}

static void test_a_flood_at_one_gate_is_bounded_and_leaves_room_at_the_others(void)
{
    begin();
    int at_one = passed(0xf2, 7, 0, 1000, 1);
    CHECK(at_one > 420 && at_one < 480);
    CHECK(passed(0xf2, 7, 0, 1001, 0) < 3);
    for (int other = 0; other < 20; other++)
        CHECK(passes(0xf2, 8, 1001));
}

static void test_a_flood_at_all_gates_is_bounded(void)
{
    begin();
    int at_all = passed(0xf2, 0, 1, 1000, 1);
    CHECK(at_all > 7000 && at_all < 8200);
}

static void test_a_gate_is_whole_again_after_a_while(void)
{
    begin();
    passed(0xf2, 7, 0, 1000, 1);
    for (int at = 0; at < 400; at++)
        CHECK(passes(0xf2, 7, 1010));
    CHECK(!passes(0xf2, 7, 1010));
}

static void test_noise_takes_nothing_from_servers_nor_servers_from_gates(void)
{
    begin();
    CHECK(passed(0x42, 0, 1, 1000, 1) < 160);
    CHECK(passes(0x01, 0, 1001));
    int told = passed(0xf4, 0, 1, 1001, 1);
    CHECK(told > 1000 && told < 1600);
    CHECK(passes(0xf2, 7, 1002));
}

static void test_what_has_no_length_or_no_index_is_noise(void)
{
    begin();
    uint8_t cut[] = {0xf2, 0, 0, 0, 1, 2, 3};
    int count = 0;
    for (int at = 0; at < FLOOD; at++)
        count += meters_pass(&meters, cut, (size_t)at % 2 * sizeof cut, 1000);
    CHECK(count == 100);
}

static void test_a_clock_that_stands_or_goes_back_gives_nothing(void)
{
    begin();
    passed(0xf2, 7, 0, 1000, 0);
    CHECK(!passes(0xf2, 7, 1000));
    CHECK(!passes(0xf2, 7, 900));
}

int main(void)
{
    test_what_carries_frames_is_not_metered();
    test_a_flood_at_one_gate_is_bounded_and_leaves_room_at_the_others();
    test_a_flood_at_all_gates_is_bounded();
    test_a_gate_is_whole_again_after_a_while();
    test_noise_takes_nothing_from_servers_nor_servers_from_gates();
    test_what_has_no_length_or_no_index_is_noise();
    test_a_clock_that_stands_or_goes_back_gives_nothing();
    puts("all hold");
    return 0;
}
