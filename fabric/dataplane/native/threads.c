#include "threads.h"

#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

double boot_time(void)
{
    struct timespec time;
    clock_gettime(CLOCK_BOOTTIME, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

void threads_fail(struct threads *threads, int error)
{
    threads->failure = error;
    lane_press(threads->lane);
}

/* Has the kernel say when each datagram came in. */
static void stamp(int udp, int wanted)
{
    if (udp >= 0)
        setsockopt(udp, SOL_SOCKET, SO_TIMESTAMPNS, &wanted, sizeof wanted);
}

static void end(struct threads *threads)
{
    stamp(threads->udp4, false);
    stamp(threads->udp6, false);
    close(threads->stop_event);
    close(threads->rest_event);
    outbox_free(&threads->outward.outbox);
    queue_free(&threads->outward.queue);
    pthread_mutex_destroy(&threads->outward.turn);
}

static void stop(struct threads *threads)
{
    threads->is_stopping = true;
    eventfd_write(threads->stop_event, 1);
}

int threads_start(struct threads *threads, struct lane *lane, int tap, int udp4, int udp6, unsigned segments)
{
    memset(threads, 0, sizeof *threads);
    threads->lane = lane;
    threads->tap = tap;
    threads->udp4 = udp4;
    threads->udp6 = udp6;
    threads->outward.outbox.segments = segments;
    if ((threads->stop_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        return errno;
    if ((threads->rest_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
        int error = errno;
        close(threads->stop_event);
        return error;
    }
    pthread_mutex_init(&threads->outward.turn, NULL);
    stamp(udp4, true);
    stamp(udp6, true);
    sigset_t all, before; /* signals are for Python's own thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = queue_init(&threads->outward.queue) ? 0 : ENOMEM;
    if (error == 0 && (error = pthread_create(&threads->out, NULL, run_out, threads)) == 0 &&
        (error = pthread_create(&threads->in, NULL, run_in, threads)) != 0) {
        stop(threads);
        pthread_join(threads->out, NULL);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        end(threads);
        return error;
    }
    pthread_setname_np(threads->out, "fabricd-out");
    pthread_setname_np(threads->in, "fabricd-in");
    return 0;
}

void threads_stop(struct threads *threads)
{
    stop(threads);
    pthread_join(threads->out, NULL);
    pthread_join(threads->in, NULL);
    end(threads);
}
