#include "vnet.h"

enum {
    ETHERNET_BYTES = 14,
    TAG_BYTES_EACH = 4,
    MAX_TAGS = 2,
    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_IPV6 = 0x86dd,
    TCP = 6,
    UDP = 17,
    TCP_CSUM_AT = 16,
    UDP_CSUM_AT = 6,
    FIN = 1,
    PSH = 8,
    CWR = 0x80,
};

static bool is_tag(uint16_t kind)
{
    return kind == 0x8100 || kind == 0x88a8; /* Linux cuts no super-frame behind 0x9100 */
}

static bool find_ip(struct view frame, size_t *ip_at, uint16_t *kind)
{
    size_t at = ETHERNET_BYTES;
    for (int tags = 0; tags <= MAX_TAGS; tags++, at += TAG_BYTES_EACH) {
        const uint8_t *type = view_at(frame, at - 2, 2);
        if (type == NULL)
            return false;
        if (!is_tag(get_u16(type))) {
            *ip_at = at;
            *kind = get_u16(type);
            return true;
        }
    }
    return false;
}

static bool shape_ip(struct shape *shape, struct view frame, uint8_t protocol)
{
    if (shape->is_ipv6) {
        const uint8_t *ip = view_at(frame, shape->ip_at, 40);
        if (ip == NULL || ip[0] >> 4 != 6 || ip[6] != protocol)
            return false;
        shape->transport_at = shape->ip_at + 40;
        shape->ends_at = shape->transport_at + get_u16(ip + 4);
        return true;
    }
    const uint8_t *ip = view_at(frame, shape->ip_at, 20);
    if (ip == NULL || ip[0] >> 4 != 4 || (ip[0] & 15) < 5 || ip[9] != protocol || (get_u16(ip + 6) & 0x3fff) != 0)
        return false;
    shape->transport_at = shape->ip_at + 4u * (ip[0] & 15);
    shape->ends_at = shape->ip_at + get_u16(ip + 2);
    return true;
}

static bool shape_udp(struct shape *shape, struct view frame, size_t whole)
{
    const uint8_t *udp = view_at(frame, shape->transport_at, 8);
    if (udp == NULL)
        return false;
    size_t end = shape->transport_at + get_u16(udp + 4);
    shape->headers = shape->transport_at + 8;
    if (end != shape->ends_at && whole != 0)
        return false;
    shape->ends_at = end < shape->ends_at ? end : shape->ends_at;
    return true;
}

static bool shape_tcp(struct shape *shape, struct view frame)
{
    const uint8_t *tcp = view_at(frame, shape->transport_at, 20);
    if (tcp == NULL || tcp[12] >> 4 < 5)
        return false;
    shape->headers = shape->transport_at + 4u * (tcp[12] >> 4);
    return true;
}

bool is_countable(const struct shape *shape, size_t payload)
{
    return !shape->is_udp || payload <= MAX_DATAGRAMS * shape->gso_size;
}

bool shape_of(struct shape *shape, const uint8_t vnet[VNET_BYTES], struct view head, size_t whole)
{
    uint8_t type = vnet[1] & (uint8_t)~GSO_ECN;
    uint16_t kind;
    *shape = (struct shape){
        .is_udp = type == GSO_UDP, .is_ecn = (vnet[1] & GSO_ECN) != 0, .gso_size = get_le16(vnet + 4)};
    if (vnet[0] != NEEDS_CSUM || (type != GSO_TCPV4 && type != GSO_TCPV6 && type != GSO_UDP) || shape->gso_size == 0 ||
        (shape->is_udp ? shape->is_ecn : shape->gso_size < MIN_TCP_GSO_BYTES) ||
        !find_ip(head, &shape->ip_at, &kind))
        return false;
    shape->is_ipv6 = kind == ETHERTYPE_IPV6;
    if ((kind != ETHERTYPE_IPV4 && kind != ETHERTYPE_IPV6) || (type == GSO_TCPV4 && shape->is_ipv6) ||
        (type == GSO_TCPV6 && !shape->is_ipv6))
        return false;
    if (!shape_ip(shape, head, shape->is_udp ? UDP : TCP) ||
        !(shape->is_udp ? shape_udp(shape, head, whole) : shape_tcp(shape, head)) ||
        get_le16(vnet + 6) != shape->transport_at ||
        get_le16(vnet + 8) != (shape->is_udp ? UDP_CSUM_AT : TCP_CSUM_AT))
        return false;
    return whole == 0 ? shape->headers <= head.length && head.length <= shape->ends_at
                      : shape->headers <= head.length && shape->headers < whole && whole == shape->ends_at &&
                            is_countable(shape, whole - shape->headers);
}

void header_for(const struct shape *shape, size_t payload, bool is_first, uint8_t vnet[VNET_BYTES])
{
    bool is_cut = payload > shape->gso_size;
    uint8_t type = shape->is_udp ? GSO_UDP : shape->is_ipv6 ? GSO_TCPV6 : GSO_TCPV4;
    vnet[0] = NEEDS_CSUM;
    vnet[1] = is_cut ? type | (shape->is_ecn && is_first ? GSO_ECN : 0) : GSO_NONE;
    put_le16(vnet + 2, (uint16_t)shape->headers);
    put_le16(vnet + 4, is_cut ? (uint16_t)shape->gso_size : 0);
    put_le16(vnet + 6, (uint16_t)shape->transport_at);
    put_le16(vnet + 8, shape->is_udp ? UDP_CSUM_AT : TCP_CSUM_AT);
}

static void mend_ipv4(uint8_t *ip, size_t header_bytes, size_t length, uint16_t identification)
{
    put_u16(ip + 2, (uint16_t)length);
    put_u16(ip + 4, identification);
    put_u16(ip + 10, 0);
    put_u16(ip + 10, (uint16_t)~fold(add_words(0, ip, header_bytes)));
}

void mend_headers(const struct shape *shape, uint8_t *frame, size_t start, size_t payload, bool is_last)
{
    uint8_t *ip = frame + shape->ip_at, *transport = frame + shape->transport_at;
    size_t length = shape->headers - shape->transport_at + payload;
    uint64_t pseudo = length + (shape->is_udp ? UDP : TCP);
    if (shape->is_ipv6) {
        put_u16(ip + 4, (uint16_t)length);
        pseudo = add_words(pseudo, ip + 8, 32);
    } else {
        uint16_t identification = (uint16_t)(get_u16(ip + 4) + start / shape->gso_size);
        mend_ipv4(ip, shape->transport_at - shape->ip_at, shape->transport_at - shape->ip_at + length, identification);
        pseudo = add_words(pseudo, ip + 12, 8);
    }
    if (shape->is_udp) {
        put_u16(transport + 4, (uint16_t)length);
        put_u16(transport + UDP_CSUM_AT, fold(pseudo));
        return;
    }
    put_u32(transport + 4, get_u32(transport + 4) + (uint32_t)start);
    if (!is_last)
        transport[13] &= (uint8_t)~(FIN | PSH);
    if (start != 0)
        transport[13] &= (uint8_t)~CWR;
    put_u16(transport + TCP_CSUM_AT, fold(pseudo));
}

bool complete_checksum(const uint8_t vnet[VNET_BYTES], uint8_t *frame, size_t length)
{
    size_t start = get_le16(vnet + 6), at = start + get_le16(vnet + 8);
    if (start >= length || at + 2 > length)
        return false;
    uint16_t sum = (uint16_t)~fold(add_words(0, frame + start, length - start));
    bool is_udp = get_le16(vnet + 8) == UDP_CSUM_AT;
    put_u16(frame + at, sum == 0 && is_udp ? 0xffff : sum);
    return true;
}
