/* One thread a direction, between the overlay device and the main UDP sockets.
 *
 *     out   device --queue--> lane --outbox--> sockets        outward.c, post.c
 *     in    sockets --> lane --> device, and what the kernel answers at once goes out with it      inward.c */
#ifndef FABRIC_THREADS_H
#define FABRIC_THREADS_H

#include "lane.h"
#include "queue.h"

enum { BATCH = 64 };

/* The way out. Whoever has the `turn` goes it: the thread, or the other one for what has just been answered. */
struct outward {
    pthread_mutex_t turn;
    struct queue queue;
    struct outbox outbox;
    struct slot_of_frame *batch[BATCH];
    int count;
    uint64_t told;  /* of what the queue has dropped */
    bool is_stuck;  /* a socket took nothing for a while: the rest of what is to be sent now waits no more */
};

struct threads {
    struct lane *lane;
    int tap, udp4, udp6; /* all non-blocking; a missing socket is -1 */
    int stop_event, rest_event;
    pthread_t out, in;
    struct outward outward;
    atomic_bool is_stopping;
    atomic_int failure; /* errno of what has ended a thread by itself, or 0 */
};

/* Starts both; returns 0 or an errno. `segments`: datagrams in one send, 1 where the kernel can't cut. */
int threads_start(struct threads *threads, struct lane *lane, int tap, int udp4, int udp6, unsigned segments);

/* Ends both, and waits for them. The descriptors stay open. */
void threads_stop(struct threads *threads);

/* For the threads themselves. */

void *run_out(void *threads);
void *run_in(void *threads);

/* Ends both, and tells Python why. */
void threads_fail(struct threads *threads, int error);

/* Seconds of CLOCK_BOOTTIME, as Python has them. */
double boot_time(void);

/* Sends what waits at the device already, unless the other thread is at it. */
void send_answers(struct threads *threads);

/* Sends all that is in the outbox, and counts in `drops` what could not be sent. */
void post_outbox(struct threads *threads, uint64_t drops[DROPS]);

enum drop drop_for(int error);

#endif
