/* Datagrams leave: a run in one send, which the kernel or the card cuts. */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "threads.h"

enum {
    UDP_OPTIONS = 17,  /* SOL_UDP */
    UDP_SEGMENT = 103, /* linux/udp.h */
    STALL_MS = 100,    /* a queue that is full for so long is not busy but stuck */
};

/* Bytes that leave in one send, in datagrams of `each`; the last may be shorter. */
struct parcel {
    const uint8_t *bytes;
    size_t length, each;
};

static socklen_t address_of(const struct way *way, struct sockaddr_storage *address)
{
    memset(address, 0, sizeof *address);
    if (way->family == 4) {
        struct sockaddr_in *ipv4 = (struct sockaddr_in *)address;
        ipv4->sin_family = AF_INET;
        ipv4->sin_port = htons(way->port);
        memcpy(&ipv4->sin_addr, way->ip, 4);
        return sizeof *ipv4;
    }
    struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)address;
    ipv6->sin6_family = AF_INET6;
    ipv6->sin6_port = htons(way->port);
    memcpy(&ipv6->sin6_addr, way->ip, 16);
    return sizeof *ipv6;
}

/* Returns 0, or the errno of the refusal. */
static int post_once(int udp, const struct way *way, const struct parcel *parcel)
{
    struct sockaddr_storage address;
    struct iovec part = {(void *)parcel->bytes, parcel->length};
    struct msghdr message = {.msg_name = &address, .msg_namelen = address_of(way, &address), .msg_iov = &part,
                             .msg_iovlen = 1};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
    } control;
    if (parcel->length > parcel->each) {
        uint16_t each = (uint16_t)parcel->each;
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        control.head.cmsg_level = UDP_OPTIONS;
        control.head.cmsg_type = UDP_SEGMENT;
        control.head.cmsg_len = CMSG_LEN(sizeof each);
        memcpy(CMSG_DATA(&control.head), &each, sizeof each);
    }
    while (sendmsg(udp, &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

/* A full queue is waited for, once in all that is to be sent now: then it is stuck. An ICMP error that an earlier
 * datagram left behind is forgotten. */
static int post(struct threads *threads, int udp, const struct way *way, const struct parcel *parcel)
{
    int error = post_once(udp, way, parcel);
    if (error == EAGAIN && !threads->outward.is_stuck) {
        struct pollfd waits[] = {{.fd = udp, .events = POLLOUT}, {.fd = threads->stop_event, .events = POLLIN}};
        if (poll(waits, 2, STALL_MS) > 0 && waits[0].revents != 0)
            error = post_once(udp, way, parcel);
        threads->outward.is_stuck = error == EAGAIN;
    } else if (error == ECONNREFUSED || error == EHOSTUNREACH || error == EPROTO) {
        error = post_once(udp, way, parcel);
    }
    return error;
}

enum drop drop_for(int error)
{
    switch (error) {
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
        return DROP_BACKPRESSURE;
    case EMSGSIZE:
        return DROP_OVERSIZE;
    default:
        return DROP_NO_PATH;
    }
}

/* Returns how many were not sent; `drops` counts them by reason. */
static unsigned post_singly(struct threads *threads, int udp, const struct way *way, const struct parcel *parcel,
                        uint64_t drops[DROPS])
{
    unsigned refused = 0;
    for (size_t at = 0; at < parcel->length; at += parcel->each) {
        size_t length = parcel->length - at < parcel->each ? parcel->length - at : parcel->each;
        struct parcel single = {parcel->bytes + at, length, length};
        int error = post(threads, udp, way, &single);
        if (error == 0)
            continue;
        refused++;
        drops[drop_for(error)]++;
        if (error == EMSGSIZE)
            lane_ask(threads->lane, ASK_TOO_LONG, (uint32_t)length, way, NULL, 0);
    }
    return refused;
}

static void ask_to_send(struct threads *threads, const struct way *way, const struct parcel *parcel)
{
    for (size_t at = 0; at < parcel->length; at += parcel->each) {
        size_t length = parcel->length - at < parcel->each ? parcel->length - at : parcel->each;
        struct iovec part = {(void *)(parcel->bytes + at), length};
        lane_ask(threads->lane, ASK_SEND, 0, way, &part, 1);
    }
}

static void post_run(struct threads *threads, const struct way *way, const struct parcel *parcel, unsigned count,
                     uint64_t drops[DROPS])
{
    int udp = way->family == 6 ? threads->udp6 : threads->udp4;
    if (!way_is_main(way)) {
        ask_to_send(threads, way, parcel);
        return;
    }
    if (udp < 0) {
        drops[DROP_NO_PATH] += count;
        return;
    }
    int error = count == 1 ? EMSGSIZE : post(threads, udp, way, parcel);
    switch (error) {
    case 0:
        return;
    case EIO:    /* a device without checksum offload */
    case EINVAL: /* which older kernels also say of a path that is too narrow */
    case EOPNOTSUPP:
        if (post_singly(threads, udp, way, parcel, drops) == 0)
            threads->outward.outbox.segments = 1;
        return;
    case EMSGSIZE:
        post_singly(threads, udp, way, parcel, drops);
        return;
    default:
        drops[drop_for(error)] += count;
    }
}

void post_outbox(struct threads *threads, uint64_t drops[DROPS])
{
    struct outbox *outbox = &threads->outward.outbox;
    threads->outward.is_stuck = false;
    for (size_t at = 0; at < outbox->run_count; at++) {
        const struct run *run = &outbox->runs[at];
        struct parcel parcel = {outbox->bytes + run->at, run->bytes, run->each};
        post_run(threads, &run->to, &parcel, run->count, drops);
        if (run->copy_to.family != 0)
            post_run(threads, &run->copy_to, &parcel, run->count, drops);
    }
    outbox_clear(outbox);
}
