#include "guard.h"

enum {
    MAX_TAGS = 4,
    MAX_LENGTH_FIELD = 1500,
    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_ARP = 0x0806,
    ETHERTYPE_IPV6 = 0x86dd,
    ICMP = 1,
    TCP = 6,
    UDP = 17,
    ICMPV6 = 58,
    ICMP_REDIRECT = 5,
    ROUTER_SOLICITATION = 133,
    REDIRECT_V6 = 137,
};

static bool is_own(const struct claim *claim, const uint8_t *ip, uint8_t length)
{
    for (size_t at = 0; at < claim->count; at++)
        if (claim->addresses[at].length == length && memcmp(claim->addresses[at].ip, ip, length) == 0)
            return true;
    return false;
}

/* Nobody but a server answers DHCP: `server` and `client` are its ports. */
static enum verdict check_udp(struct view frame, size_t at, uint16_t server, uint16_t client)
{
    const uint8_t *udp = view_at(frame, at, 4);
    if (udp == NULL)
        return VERDICT_MALFORMED;
    return get_u16(udp) == server || get_u16(udp + 2) == client ? VERDICT_FALSE_SOURCE : VERDICT_IN;
}

static enum verdict check_ipv4(const struct claim *claim, struct view frame, size_t at)
{
    const uint8_t *ip = view_at(frame, at, 20);
    if (ip == NULL || ip[0] >> 4 != 4 || (ip[0] & 15) < 5)
        return VERDICT_MALFORMED;
    size_t payload_at = at + 4u * (ip[0] & 15);
    if (payload_at > frame.length)
        return VERDICT_MALFORMED;
    if (!is_own(claim, ip + 12, 4))
        return VERDICT_FALSE_SOURCE;
    if ((get_u16(ip + 6) & 0x1fff) != 0)
        return VERDICT_IN;
    if (ip[9] == UDP)
        return check_udp(frame, payload_at, 67, 68);
    const uint8_t *type = view_at(frame, payload_at, 1);
    return ip[9] == ICMP && type != NULL && type[0] == ICMP_REDIRECT ? VERDICT_FALSE_SOURCE : VERDICT_IN;
}

static enum verdict check_ipv6(const struct claim *claim, struct view frame, size_t at)
{
    const uint8_t *ip = view_at(frame, at, 40);
    if (ip == NULL || ip[0] >> 4 != 6)
        return VERDICT_MALFORMED;
    if (!is_own(claim, ip + 8, 16))
        return VERDICT_ASK;
    if (ip[6] == TCP)
        return VERDICT_IN;
    if (ip[6] == UDP)
        return check_udp(frame, at + 40, 547, 546);
    const uint8_t *type = view_at(frame, at + 40, 1);
    bool is_echo = ip[6] == ICMPV6 && type != NULL && (type[0] < ROUTER_SOLICITATION || type[0] > REDIRECT_V6);
    return is_echo ? VERDICT_IN : VERDICT_ASK;
}

static enum verdict check_bridged(const struct claim *claim, const uint8_t *source)
{
    if (source[0] & 1)
        return VERDICT_MALFORMED;
    return memcmp(source, claim->own_mac, 6) == 0 ? VERDICT_FALSE_SOURCE : VERDICT_IN;
}

enum verdict guard_check(const struct claim *claim, struct view frame)
{
    static const uint8_t between_neighbours[] = {0x01, 0x80, 0xc2};
    const uint8_t *head = view_at(frame, 0, 14);
    if (head == NULL)
        return VERDICT_MALFORMED;
    if (claim->bridge)
        return check_bridged(claim, head + 6);
    if (memcmp(head + 6, claim->mac, 6) != 0 || memcmp(head, between_neighbours, sizeof between_neighbours) == 0)
        return VERDICT_FALSE_SOURCE;
    size_t at = 14;
    uint16_t kind = get_u16(head + 12);
    for (int tags = 1; kind == 0x8100 || kind == 0x88a8 || kind == 0x9100; tags++) {
        const uint8_t *tag = view_at(frame, at, 4);
        if (tag == NULL || tags > MAX_TAGS)
            return VERDICT_MALFORMED;
        kind = get_u16(tag + 2);
        at += 4;
    }
    if (kind == ETHERTYPE_IPV4)
        return check_ipv4(claim, frame, at);
    if (kind == ETHERTYPE_IPV6)
        return check_ipv6(claim, frame, at);
    return kind == ETHERTYPE_ARP || kind <= MAX_LENGTH_FIELD ? VERDICT_ASK : VERDICT_IN;
}
