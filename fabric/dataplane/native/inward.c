/* The way in: datagrams are read as the kernel has joined them, and what comes of them is written to the device. */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "meter.h"
#include "threads.h"

enum {
    UDP_OPTIONS = 17, /* SOL_UDP */
    UDP_GRO = 104,    /* linux/udp.h */
    READ_BYTES = 65536 + 64, /* what coalesced datagrams come to */
    FLOOD_NEWS = 64,         /* datagrams that opened under no session: as many are told of */
};

/* What one read brings: datagrams of `each` bytes, from one source. `waited` is how long they were in the socket. An
 * error brings none; one that is void is empty, or longer than any of ours. */
struct letter {
    size_t length, each;
    double waited;
    struct way source;
    bool is_void;
};

static double waited_since(const struct timespec *came)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (double)(time.tv_sec - came->tv_sec) + (double)(time.tv_nsec - came->tv_nsec) / 1e9;
}

static void read_control(struct msghdr *message, struct letter *letter)
{
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head != NULL; head = CMSG_NXTHDR(message, head)) {
        int each;
        struct timespec came;
        if (head->cmsg_level == UDP_OPTIONS && head->cmsg_type == UDP_GRO) {
            memcpy(&each, CMSG_DATA(head), sizeof each);
            letter->each = each > 0 ? (size_t)each : letter->each;
        } else if (head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_TIMESTAMPNS) {
            memcpy(&came, CMSG_DATA(head), sizeof came);
            letter->waited = waited_since(&came);
        }
    }
}

static void way_from(const struct sockaddr_storage *address, struct way *way)
{
    memset(way, 0, sizeof *way);
    way->transport = TRANSPORT_UDP;
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)address;
        way->family = 4;
        way->port = ntohs(ipv4->sin_port);
        memcpy(way->ip, &ipv4->sin_addr, 4);
    } else if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)address;
        way->family = 6;
        way->port = ntohs(ipv6->sin6_port);
        memcpy(way->ip, &ipv6->sin6_addr, 16);
    }
}

/* False where nothing waits. An error belongs to an earlier send: the next read goes on behind it. */
static bool receive(struct threads *threads, int udp, uint8_t *buffer, struct letter *letter)
{
    struct sockaddr_storage address;
    struct iovec part = {buffer, READ_BYTES};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct timespec))];
    } control;
    struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = &control, .msg_controllen = sizeof control};
    letter->length = letter->each = 0;
    letter->waited = 0;
    letter->is_void = false;
    ssize_t length = recvmsg(udp, &message, MSG_DONTWAIT);
    if (length < 0) {
        if (errno == EBADF || errno == ENOTSOCK)
            threads_fail(threads, errno);
        return errno != EAGAIN && errno != EBADF && errno != ENOTSOCK;
    }
    letter->length = letter->each = (size_t)length;
    letter->is_void = length == 0 || (message.msg_flags & MSG_TRUNC) != 0;
    way_from(&address, &letter->source);
    read_control(&message, letter);
    return true;
}

static void deliver(void *context, const struct iovec *parts, int count)
{
    struct threads *threads = context;
    struct lane *lane = threads->lane;
    ssize_t done;
    while ((done = writev(threads->tap, parts, count)) < 0 && errno == EINTR)
        ;
    if (done >= 0)
        return;
    const uint8_t *vnet = parts[0].iov_base;
    if (errno == EINVAL && vnet[1] != GSO_NONE)
        lane_ask(lane, ASK_SEGMENT, 0, NULL, parts, count);
    else if (errno == EINVAL)
        lane->in_drops[DROP_MALFORMED]++;
    else
        lane->in_drops[drop_for(errno)]++;
}

/* A queue that stands in the socket is cut by a datagram: the last but one of a row, as the first may have the headers
 * of a super-frame, and the last is short. */
static size_t unwanted_in(const struct letter *letter, struct codel *codel, double instant)
{
    size_t count = letter->length / letter->each;
    bool drops = codel_drops(codel, letter->waited, instant, count < 3 ? 0 : SIZE_MAX);
    return drops ? (count - 2) * letter->each : SIZE_MAX;
}

/* What the two main sockets have in common. */
struct inward {
    struct codel codels[2];
    struct meters meters;
    uint8_t *buffer;
};

/* `in` held. */
static bool has_news(const struct lane *lane)
{
    return lane->touched_in != NULL || lane->unopened - lane->unopened_told >= FLOOD_NEWS;
}

static void count_void(struct lane *lane)
{
    pthread_mutex_lock(&lane->in);
    lane->in_drops[DROP_MALFORMED]++;
    lane->unopened++;
    bool is_news = has_news(lane);
    pthread_mutex_unlock(&lane->in);
    if (is_news)
        lane_tell_news(lane);
}

static void take_letter(struct threads *threads, struct inward *inward, const struct letter *letter, struct codel *codel)
{
    uint8_t *buffer = inward->buffer;
    struct lane *lane = threads->lane;
    struct sink sink = {threads, deliver};
    double instant = boot_time();
    size_t unwanted = unwanted_in(letter, codel, instant);
    pthread_mutex_lock(&lane->in);
    lane->in_drops[DROP_QUEUE] += unwanted != SIZE_MAX;
    for (size_t at = 0; at < letter->length; at += letter->each) {
        if (at == unwanted)
            continue;
        size_t length = letter->length - at < letter->each ? letter->length - at : letter->each;
        if (!meters_pass(&inward->meters, buffer + at, length, instant)) {
            lane->in_drops[DROP_BACKPRESSURE]++;
            lane->unopened++;
            continue;
        }
        lane_take_datagram(lane, buffer + at, length, &letter->source, instant, &sink);
    }
    bool is_news = has_news(lane), is_urgent = atomic_load(&lane->is_urgent);
    pthread_mutex_unlock(&lane->in);
    if (is_news)
        lane_tell_news(lane);
    if (is_urgent)
        lane_press(lane);
}

/* Milliseconds until something is due, or -1; what is due already is done. */
static int settle(struct threads *threads)
{
    struct lane *lane = threads->lane;
    struct sink sink = {threads, deliver};
    pthread_mutex_lock(&lane->in);
    double due = lane_next_timeout(lane), instant = boot_time();
    if (due != 0 && due <= instant) {
        lane_handle_timeout(lane, instant, &sink);
        due = lane_next_timeout(lane);
    }
    pthread_mutex_unlock(&lane->in);
    return due == 0 ? -1 : due <= instant ? 1 : (int)((due - instant) * 1000) + 1;
}

static void drain(struct threads *threads, int udp, struct inward *inward, struct codel *codel)
{
    struct letter letter;
    int read = 0;
    for (; read < BATCH && receive(threads, udp, inward->buffer, &letter); read++)
        if (letter.is_void)
            count_void(threads->lane);
        else if (letter.length > 0)
            take_letter(threads, inward, &letter, codel);
    if (read < BATCH)
        codel_rest(codel);
    send_answers(threads);
}

void *run_in(void *context)
{
    struct threads *threads = context;
    struct inward inward = {.buffer = malloc(READ_BYTES)};
    struct pollfd waits[] = {{.fd = threads->stop_event, .events = POLLIN},
                             {.fd = threads->udp4, .events = POLLIN},
                             {.fd = threads->udp6, .events = POLLIN}};
    if (inward.buffer == NULL)
        threads_fail(threads, ENOMEM);
    while (threads->failure == 0) {
        if (poll(waits, 3, settle(threads)) < 0) {
            if (errno != EINTR)
                threads_fail(threads, errno);
            continue;
        }
        if (threads->is_stopping)
            break;
        for (int at = 1; at < 3; at++)
            if (waits[at].revents != 0)
                drain(threads, waits[at].fd, &inward, &inward.codels[at - 1]);
    }
    free(inward.buffer);
    return NULL;
}

