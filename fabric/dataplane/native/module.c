/* The lane as Python sees it: `fabric.dataplane._native`, described in `_native.pyi`.
 *
 * No call into Python happens while a lock of the lane is held: that could run anything, the lane's own methods
 * among it. What goes up is first put on a shelf in C, and made into objects when no lock is held. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>

#include "lane.h"
#include "threads.h"

enum { MAX_PROVIDERS = 16, NOWHERE = 0 };

static const struct provider *providers[MAX_PROVIDERS];
static size_t provider_count;

/* Frames for Python, each with its length before it. */
struct shelf {
    uint8_t *bytes;
    size_t used, size;
    uint64_t lost; /* for want of memory */
};

typedef struct {
    PyObject_HEAD
    struct lane lane;
    struct outbox outbox; /* what calls have made, not the threads: no lock is needed for either, */
    struct shelf shelf;   /* and none is waited for where there is nothing to take */
    struct threads threads;
    bool is_open, is_attached;
    const struct provider *aes, *chacha;
} LaneObject;

static LaneObject *lane_of(PyObject *self)
{
    return (LaneObject *)self;
}

/* The interpreter's lock is kept: the threads never want that one, so nothing can be deadlocked. Who gave it away to
 * wait here would have to get it back with this lock in hand, and both directions would stand still for as long as
 * another thread of Python runs. */
static void take(pthread_mutex_t *lock)
{
    pthread_mutex_lock(lock);
}

static void take_both(struct lane *lane)
{
    take(&lane->out);
    take(&lane->in);
}

static void give(pthread_mutex_t *lock)
{
    pthread_mutex_unlock(lock);
}

static void give_both(struct lane *lane)
{
    pthread_mutex_unlock(&lane->in);
    pthread_mutex_unlock(&lane->out);
}

static void shelve(void *context, const struct iovec *parts, int count)
{
    struct shelf *shelf = context;
    uint32_t length = 0;
    for (int part = 0; part < count; part++)
        length += (uint32_t)parts[part].iov_len;
    size_t needed = shelf->used + sizeof length + length;
    if (needed > shelf->size) {
        uint8_t *wider = realloc(shelf->bytes, 2 * needed);
        if (wider == NULL) {
            shelf->lost++;
            return;
        }
        shelf->bytes = wider;
        shelf->size = 2 * needed;
    }
    memcpy(shelf->bytes + shelf->used, &length, sizeof length);
    shelf->used += sizeof length;
    for (int part = 0; part < count; shelf->used += parts[part++].iov_len)
        memcpy(shelf->bytes + shelf->used, parts[part].iov_base, parts[part].iov_len);
}

/* Targets: None, (ip, port) or (ip, port, transport, via). */

static int way_of(PyObject *target, void *result)
{
    struct way *way = result;
    const char *ip;
    int port, transport = TRANSPORT_UDP;
    unsigned long long via = 0;
    memset(way, 0, sizeof *way);
    if (target == Py_None)
        return 1;
    if (!PyTuple_Check(target) || !PyArg_ParseTuple(target, "si|iK", &ip, &port, &transport, &via)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a target is a tuple");
        return 0;
    }
    if (inet_pton(AF_INET, ip, way->ip) == 1)
        way->family = 4;
    else if (inet_pton(AF_INET6, ip, way->ip) == 1)
        way->family = 6;
    else {
        PyErr_Format(PyExc_ValueError, "not an IP address: %s", ip);
        return 0;
    }
    way->port = (uint16_t)port;
    way->transport = (uint8_t)transport;
    way->via = via;
    return 1;
}

static PyObject *target_of(const struct way *way)
{
    char ip[INET6_ADDRSTRLEN];
    if (way->family == 0)
        Py_RETURN_NONE;
    inet_ntop(way->family == 6 ? AF_INET6 : AF_INET, way->ip, ip, sizeof ip);
    if (way_is_main(way))
        return Py_BuildValue("(si)", ip, (int)way->port);
    return Py_BuildValue("(siiK)", ip, (int)way->port, (int)way->transport, (unsigned long long)way->via);
}

/* Life. */

static int lane_object_init(PyObject *self, PyObject *arguments, PyObject *names)
{
    static char *words[] = {"mac", "aes", "chacha", "segments", NULL};
    LaneObject *object = lane_of(self);
    const uint8_t *mac;
    Py_ssize_t length;
    int aes, chacha;
    unsigned segments = MAX_SEGMENTS;
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "y#ii|I", words, &mac, &length, &aes, &chacha, &segments))
        return -1;
    if (object->is_open || length != 6 || aes < 0 || chacha < 0 || (size_t)aes >= provider_count ||
        (size_t)chacha >= provider_count || segments < 1 || segments > MAX_SEGMENTS) {
        PyErr_SetString(PyExc_ValueError, "a lane is made once, from a MAC and the numbers of two providers");
        return -1;
    }
    if (!lane_init(&object->lane, mac)) {
        PyErr_NoMemory();
        return -1;
    }
    object->outbox.segments = segments;
    object->aes = providers[aes];
    object->chacha = providers[chacha];
    object->is_open = true;
    return 0;
}

static void stop_threads(LaneObject *object)
{
    if (!object->is_attached)
        return;
    object->is_attached = false;
    Py_BEGIN_ALLOW_THREADS
    threads_stop(&object->threads);
    Py_END_ALLOW_THREADS
    object->lane.ask_event = object->lane.news_event = -1;
}

static void lane_object_free(PyObject *self)
{
    LaneObject *object = lane_of(self);
    PyTypeObject *type = Py_TYPE(self);
    stop_threads(object);
    if (object->is_open)
        lane_free(&object->lane);
    outbox_free(&object->outbox);
    free(object->shelf.bytes);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* Steering. */

static PyObject *done(bool is_done)
{
    if (is_done)
        Py_RETURN_NONE;
    return PyErr_NoMemory();
}

static bool claim_of(struct claim *claim, const struct lane *lane, const char *mac, Py_ssize_t mac_bytes,
                     PyObject *addresses, bool bridge)
{
    *claim = (struct claim){.bridge = bridge};
    Py_ssize_t count = PyTuple_Size(addresses);
    if (count < 0 || count > MAX_ADDRESSES || mac_bytes != 6) {
        PyErr_SetString(PyExc_ValueError, "a MAC of 6 bytes and a tuple of a few addresses make a port");
        return false;
    }
    memcpy(claim->mac, mac, 6);
    memcpy(claim->own_mac, lane->mac, 6);
    for (Py_ssize_t at = 0; at < count; at++) {
        char *ip;
        Py_ssize_t length;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(addresses, at), &ip, &length) < 0)
            return false;
        if (length != 4 && length != 16) {
            PyErr_SetString(PyExc_ValueError, "an address has 4 or 16 bytes");
            return false;
        }
        claim->addresses[at].length = (uint8_t)length;
        memcpy(claim->addresses[at].ip, ip, (size_t)length);
        claim->count++;
    }
    return true;
}

static PyObject *add_port(PyObject *self, PyObject *arguments)
{
    LaneObject *object = lane_of(self);
    unsigned number;
    const char *mac;
    Py_ssize_t mac_bytes;
    PyObject *addresses;
    int bridge;
    struct claim claim;
    if (!PyArg_ParseTuple(arguments, "Iy#O!p", &number, &mac, &mac_bytes, &PyTuple_Type, &addresses, &bridge) ||
        !claim_of(&claim, &object->lane, mac, mac_bytes, addresses, bridge))
        return NULL;
    take_both(&object->lane);
    struct port *port = lane_port(&object->lane, number);
    if (port == NULL)
        port = lane_add_port(&object->lane, number);
    if (port != NULL)
        port->claim = claim;
    give_both(&object->lane);
    return done(port != NULL);
}

static PyObject *remove_port(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    unsigned number;
    if (!PyArg_ParseTuple(arguments, "I", &number))
        return NULL;
    take_both(lane);
    struct port *port = lane_port(lane, number);
    for (size_t at = 0; port != NULL && lane->sessions.slots != NULL && at <= lane->sessions.mask;) {
        struct session *session = lane->sessions.slots[at].value;
        if (session != NULL && session->port == port)
            lane_remove_session(lane, session); /* another may have moved to where it stood: look there again */
        else
            at++;
    }
    if (port != NULL)
        lane_remove_port(lane, port);
    give_both(lane);
    Py_RETURN_NONE;
}

static PyObject *map_mac(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    const uint8_t *mac;
    Py_ssize_t length;
    unsigned number;
    if (!PyArg_ParseTuple(arguments, "y#I", &mac, &length, &number))
        return NULL;
    take_both(lane);
    struct port *port = lane_port(lane, number);
    bool is_done = port == NULL || length != 6 || lane_add_station(lane, mac, port);
    give_both(lane);
    return done(is_done);
}

static PyObject *unmap_mac(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    const uint8_t *mac;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "y#", &mac, &length))
        return NULL;
    take_both(lane);
    if (length == 6)
        lane_remove_station(lane, mac);
    give_both(lane);
    Py_RETURN_NONE;
}

static PyObject *take_seen(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    struct lane *lane = &lane_of(self)->lane;
    struct shelf seen = {0};
    take_both(lane);
    for (struct station *station = lane->all_stations; station != NULL; station = station->next) {
        struct iovec mac = {station->mac, 6};
        if (station->seen)
            shelve(&seen, &mac, 1);
        station->seen = false;
    }
    give_both(lane);
    PyObject *macs = PyList_New(0);
    for (size_t at = sizeof(uint32_t); macs != NULL && at < seen.used; at += 6 + sizeof(uint32_t)) {
        PyObject *mac = PyBytes_FromStringAndSize((const char *)seen.bytes + at, 6);
        if (mac == NULL || PyList_Append(macs, mac) < 0)
            Py_CLEAR(macs);
        Py_XDECREF(mac);
    }
    free(seen.bytes);
    return macs;
}

/* Both keys at work, or neither. */
static bool set_keys(struct session *session, const struct provider *provider, enum suite suite,
                     const uint8_t *seal_key, const uint8_t *open_key)
{
    if (!aead_make(&session->sealer.aead, provider, suite, seal_key, true))
        return false;
    if (aead_make(&session->opener.aead, provider, suite, open_key, false))
        return true;
    aead_wipe(&session->sealer.aead);
    return false;
}

static PyObject *install(PyObject *self, PyObject *arguments)
{
    LaneObject *object = lane_of(self);
    struct lane *lane = &object->lane;
    unsigned number, local_index, remote_index;
    int suite, awaiting;
    const uint8_t *seal_key, *open_key;
    Py_ssize_t seal_bytes, open_bytes;
    if (!PyArg_ParseTuple(arguments, "IIIiy#y#p", &number, &local_index, &remote_index, &suite, &seal_key, &seal_bytes,
                          &open_key, &open_bytes, &awaiting))
        return NULL;
    if (seal_bytes != KEY_BYTES || open_bytes != KEY_BYTES ||
        (suite != SUITE_AES_256_GCM && suite != SUITE_CHACHA20_POLY1305)) {
        PyErr_SetString(PyExc_ValueError, "a session is of a known suite, with two keys of 32 bytes");
        return NULL;
    }
    take_both(lane);
    struct port *port = lane_port(lane, number);
    struct session *session = port == NULL ? NULL : lane_session(lane, local_index);
    if (session != NULL)
        lane_remove_session(lane, session);
    session = port == NULL ? NULL : lane_add_session(lane, local_index, port);
    bool is_done = port == NULL;
    if (session != NULL) {
        const struct provider *provider = suite == SUITE_AES_256_GCM ? object->aes : object->chacha;
        session->awaiting = awaiting;
        session->sealer.remote_index = remote_index;
        is_done = set_keys(session, provider, (enum suite)suite, seal_key, open_key);
        if (!is_done)
            lane_remove_session(lane, session);
    }
    give_both(lane);
    return done(is_done);
}

static PyObject *set_live(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    unsigned local_index;
    if (!PyArg_ParseTuple(arguments, "I", &local_index))
        return NULL;
    take_both(lane);
    struct session *session = lane_session(lane, local_index);
    if (session != NULL) {
        session->awaiting = false;
        port_seal_with(session->port, session);
    }
    give_both(lane);
    Py_RETURN_NONE;
}

static PyObject *retire(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    unsigned local_index;
    if (!PyArg_ParseTuple(arguments, "I", &local_index))
        return NULL;
    take_both(lane);
    struct session *session = lane_session(lane, local_index);
    if (session != NULL)
        lane_remove_session(lane, session);
    give_both(lane);
    Py_RETURN_NONE;
}

static PyObject *steer(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    unsigned number;
    struct way to, copy_to;
    Py_ssize_t limit;
    double now;
    if (!PyArg_ParseTuple(arguments, "IO&nO&d", &number, way_of, &to, &limit, way_of, &copy_to, &now))
        return NULL;
    take_both(lane);
    struct port *port = lane_port(lane, number);
    now = now > lane->now ? now : lane->now; /* the threads' clock goes on while nobody steers */
    bool is_done = port == NULL || port_steer(port, &to, limit > 0 ? (size_t)limit : 0, &copy_to, now);
    give_both(lane);
    return done(is_done);
}

/* Sending. */

static PyObject *seal(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    unsigned local_index;
    const uint8_t *plain;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "Iy#", &local_index, &plain, &length))
        return NULL;
    PyObject *datagram = PyBytes_FromStringAndSize(NULL, length + OVERHEAD_BYTES);
    if (datagram == NULL)
        return NULL;
    uint8_t *bytes = (uint8_t *)PyBytes_AsString(datagram);
    take(&lane->out);
    struct session *session = lane_session(lane, local_index);
    bool is_done = session != NULL && sealer_seal(&session->sealer, plain, (size_t)length, bytes);
    give(&lane->out);
    if (is_done)
        return datagram;
    Py_DECREF(datagram);
    Py_RETURN_NONE;
}

static PyObject *next_slice_id(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    unsigned number;
    if (!PyArg_ParseTuple(arguments, "I", &number))
        return NULL;
    take(&lane->out);
    struct port *port = lane_port(lane, number);
    unsigned long id = port == NULL ? 0 : ++port->slice_id;
    give(&lane->out);
    return PyLong_FromUnsignedLong(id);
}

/* A frame of Python's, copied to where it may be overwritten. */
struct desk {
    uint8_t bytes[HEADROOM + MAX_FRAME_BYTES + 64];
};

/* False, with an exception, for what is no frame with its vnet header; one that is too long is cut to `length` 0. */
static bool lay(struct desk *desk, PyObject *item, uint8_t vnet[VNET_BYTES], size_t *length)
{
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(item, &bytes, &size) < 0)
        return false;
    if (size < VNET_BYTES || (size_t)size > sizeof desk->bytes - HEADROOM) {
        PyErr_SetString(PyExc_ValueError, "a frame comes behind its vnet header, and is no longer than any");
        return false;
    }
    memcpy(vnet, bytes, VNET_BYTES);
    *length = (size_t)size - VNET_BYTES;
    memcpy(desk->bytes + HEADROOM, bytes + VNET_BYTES, *length);
    return true;
}

static PyObject *handle_frames(PyObject *self, PyObject *arguments)
{
    LaneObject *object = lane_of(self);
    PyObject *frames;
    double now;
    struct desk desk;
    uint8_t vnet[VNET_BYTES];
    size_t length;
    if (!PyArg_ParseTuple(arguments, "O!d", &PyList_Type, &frames, &now))
        return NULL;
    for (Py_ssize_t at = 0; at < PyList_Size(frames); at++) {
        if (!lay(&desk, PyList_GetItem(frames, at), vnet, &length))
            return NULL;
        take(&object->lane.out);
        lane_send_frame(&object->lane, vnet, desk.bytes + HEADROOM, length, now, &object->outbox);
        give(&object->lane.out);
    }
    take(&object->lane.out);
    lane_flush(&object->lane, now, &object->outbox);
    give(&object->lane.out);
    Py_RETURN_NONE;
}

static PyObject *send_to(PyObject *self, PyObject *arguments)
{
    LaneObject *object = lane_of(self);
    unsigned number;
    PyObject *frame;
    double now;
    struct desk desk;
    uint8_t vnet[VNET_BYTES];
    size_t length;
    if (!PyArg_ParseTuple(arguments, "IOd", &number, &frame, &now) || !lay(&desk, frame, vnet, &length))
        return NULL;
    take(&object->lane.out);
    struct port *port = lane_port(&object->lane, number);
    if (port != NULL)
        port_send_frame(&object->lane, port, vnet, desk.bytes + HEADROOM, length, now, &object->outbox);
    lane_flush(&object->lane, now, &object->outbox);
    give(&object->lane.out);
    Py_RETURN_NONE;
}

static bool append(PyObject *list, PyObject *item)
{
    bool is_done = item != NULL && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return is_done;
}

static bool append_run(PyObject *datagrams, const struct outbox *outbox, const struct run *run)
{
    PyObject *target = target_of(&run->to), *copy_target = target_of(&run->copy_to);
    bool is_done = target != NULL && copy_target != NULL;
    for (size_t at = 0; is_done && at < run->bytes; at += run->each) {
        size_t length = run->bytes - at < run->each ? run->bytes - at : run->each;
        const char *bytes = (const char *)outbox->bytes + run->at + at;
        is_done = append(datagrams, Py_BuildValue("(y#O)", bytes, (Py_ssize_t)length, target)) &&
                  (run->copy_to.family == 0 ||
                   append(datagrams, Py_BuildValue("(y#O)", bytes, (Py_ssize_t)length, copy_target)));
    }
    Py_XDECREF(target);
    Py_XDECREF(copy_target);
    return is_done;
}

static PyObject *take_datagrams(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    LaneObject *object = lane_of(self);
    struct outbox outbox = object->outbox;
    object->outbox = (struct outbox){.segments = outbox.segments};
    PyObject *datagrams = PyList_New(0);
    for (size_t at = 0; datagrams != NULL && at < outbox.run_count; at++)
        if (!append_run(datagrams, &outbox, &outbox.runs[at]))
            Py_CLEAR(datagrams);
    outbox_free(&outbox);
    return datagrams;
}

/* Receiving. */

static PyObject *handle_datagrams(PyObject *self, PyObject *arguments)
{
    LaneObject *object = lane_of(self);
    struct sink sink = {&object->shelf, shelve};
    PyObject *batch;
    double now;
    if (!PyArg_ParseTuple(arguments, "O!d", &PyList_Type, &batch, &now))
        return NULL;
    for (Py_ssize_t at = 0; at < PyList_Size(batch); at++) {
        const char *bytes;
        Py_ssize_t length;
        struct way source;
        if (!PyArg_ParseTuple(PyList_GetItem(batch, at), "y#O&", &bytes, &length, way_of, &source))
            return NULL;
        uint8_t *datagram = malloc((size_t)length + 1);
        if (datagram == NULL)
            return PyErr_NoMemory();
        memcpy(datagram, bytes, (size_t)length);
        take(&object->lane.in);
        lane_take_datagram(&object->lane, datagram, (size_t)length, &source, now, &sink);
        give(&object->lane.in);
        free(datagram);
    }
    Py_RETURN_NONE;
}

static PyObject *handle_record(PyObject *self, PyObject *arguments)
{
    LaneObject *object = lane_of(self);
    struct sink sink = {&object->shelf, shelve};
    unsigned local_index;
    const char *bytes;
    Py_ssize_t length;
    double now;
    if (!PyArg_ParseTuple(arguments, "Iy#d", &local_index, &bytes, &length, &now))
        return NULL;
    uint8_t *record = malloc((size_t)length + 1);
    if (record == NULL)
        return PyErr_NoMemory();
    memcpy(record, bytes, (size_t)length);
    take(&object->lane.in);
    struct session *session = lane_session(&object->lane, local_index);
    now = now > object->lane.now ? now : object->lane.now; /* as in `steer` */
    if (session != NULL)
        lane_take_record(&object->lane, session, record, (size_t)length, now, &sink);
    give(&object->lane.in);
    free(record);
    Py_RETURN_NONE;
}

static PyObject *count_received(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    unsigned number;
    Py_ssize_t bytes;
    if (!PyArg_ParseTuple(arguments, "In", &number, &bytes))
        return NULL;
    take(&lane->in);
    struct port *port = lane_port(lane, number);
    if (port != NULL)
        port->rx_bytes += (uint64_t)bytes;
    give(&lane->in);
    Py_RETURN_NONE;
}

static PyObject *take_frames(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    LaneObject *object = lane_of(self);
    struct shelf shelf = object->shelf;
    object->shelf = (struct shelf){0};
    if (shelf.lost > 0) {
        take(&object->lane.in);
        object->lane.in_drops[DROP_BACKPRESSURE] += shelf.lost;
        give(&object->lane.in);
    }
    PyObject *frames = PyList_New(0);
    uint32_t length;
    for (size_t at = 0; frames != NULL && at < shelf.used; at += length) {
        memcpy(&length, shelf.bytes + at, sizeof length);
        at += sizeof length;
        if (!append(frames, PyBytes_FromStringAndSize((const char *)shelf.bytes + at, (Py_ssize_t)length)))
            Py_CLEAR(frames);
    }
    free(shelf.bytes);
    return frames;
}

static PyObject *handle_timeout(PyObject *self, PyObject *arguments)
{
    LaneObject *object = lane_of(self);
    struct sink sink = {&object->shelf, shelve};
    double now;
    if (!PyArg_ParseTuple(arguments, "d", &now))
        return NULL;
    take(&object->lane.in);
    lane_handle_timeout(&object->lane, now, &sink);
    give(&object->lane.in);
    Py_RETURN_NONE;
}

static PyObject *next_timeout(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    struct lane *lane = &lane_of(self)->lane;
    take(&lane->in);
    double next = lane_next_timeout(lane);
    give(&lane->in);
    if (next == 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(next);
}

/* News. */

static PyObject *take_asks(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    LaneObject *object = lane_of(self);
    PyObject *asks = PyList_New(0);
    for (struct ask *ask = lane_take_asks(&object->lane), *next; ask != NULL; ask = next) {
        next = ask->next;
        if (asks != NULL && !append(asks, Py_BuildValue("(iINy#)", (int)ask->kind, (unsigned)ask->number,
                                                        target_of(&ask->way), (const char *)ask->bytes,
                                                        (Py_ssize_t)ask->length)))
            Py_CLEAR(asks);
        free(ask);
    }
    return asks;
}

static PyObject *is_urgent(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    return PyBool_FromLong(atomic_load(&lane_of(self)->lane.is_urgent));
}

static PyObject *unopened(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    return PyLong_FromUnsignedLongLong(atomic_load(&lane_of(self)->lane.unopened));
}

/* What one session has done since the last report. */
struct report {
    uint32_t number, index;
    uint64_t opened, sealed, counter;
    double last_opened, last_sealed;
    struct way source;
};

static struct report report_of(struct session *session)
{
    struct report report = {.number = session->port->number,
                            .index = session->index,
                            .opened = session->opened,
                            .sealed = session->sealed,
                            .counter = session->sealer.counter,
                            .last_opened = session->last_opened,
                            .last_sealed = session->last_sealed,
                            .source = session->source};
    session->opened = session->sealed = 0;
    session->last_opened = session->last_sealed = 0;
    session->source = (struct way){0};
    session->in_touched = session->out_touched = false;
    return report;
}

static PyObject *report_object(const struct report *report)
{
    return Py_BuildValue("(IIKKddLN)", (unsigned)report->number, (unsigned)report->index,
                         (unsigned long long)report->opened, (unsigned long long)report->sealed, report->last_opened,
                         report->last_sealed, (long long)report->counter - 1, target_of(&report->source));
}

static PyObject *take_traffic(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    struct lane *lane = &lane_of(self)->lane;
    size_t count = 0, size = 0;
    take_both(lane);
    atomic_store(&lane->has_told_news, false);
    atomic_store(&lane->is_urgent, false);
    lane->unopened_told = lane->unopened;
    for (struct session *session = lane->touched_out; session != NULL; session = session->next_out)
        size++;
    for (struct session *session = lane->touched_in; session != NULL; session = session->next_in)
        size++;
    struct report *reports = size == 0 ? NULL : malloc(size * sizeof *reports);
    for (struct session *session = lane->touched_out; session != NULL && reports != NULL; session = session->next_out)
        reports[count++] = report_of(session);
    for (struct session *session = lane->touched_in; session != NULL && reports != NULL; session = session->next_in)
        if (session->in_touched) /* else it was among those that have sent */
            reports[count++] = report_of(session);
    if (reports != NULL)
        lane->touched_out = lane->touched_in = NULL;
    give_both(lane);
    PyObject *traffic = PyList_New(0);
    for (size_t at = 0; traffic != NULL && at < count; at++)
        if (!append(traffic, report_object(&reports[at])))
            Py_CLEAR(traffic);
    free(reports);
    return traffic;
}

static PyObject *tuple_of(const uint64_t *first, const uint64_t *second)
{
    PyObject *tuple = PyTuple_New(DROPS);
    for (int at = 0; tuple != NULL && at < DROPS; at++) {
        PyObject *count = PyLong_FromUnsignedLongLong(first[at] + second[at]);
        if (count == NULL || PyTuple_SetItem(tuple, at, count) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *counters(PyObject *self, PyObject *arguments)
{
    struct lane *lane = &lane_of(self)->lane;
    unsigned number;
    if (!PyArg_ParseTuple(arguments, "I", &number))
        return NULL;
    struct port seen = {0};
    take_both(lane);
    struct port *port = lane_port(lane, number);
    if (port != NULL)
        seen = *port;
    give_both(lane);
    return Py_BuildValue("(KKN)", (unsigned long long)seen.rx_bytes, (unsigned long long)seen.tx_bytes,
                         tuple_of(seen.rx_drops, seen.tx_drops));
}

static PyObject *drops(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    struct lane *lane = &lane_of(self)->lane;
    uint64_t out[DROPS], in[DROPS];
    take_both(lane);
    memcpy(out, lane->out_drops, sizeof out);
    memcpy(in, lane->in_drops, sizeof in);
    give_both(lane);
    pthread_mutex_lock(&lane->asking);
    out[DROP_BACKPRESSURE] += lane->unasked;
    pthread_mutex_unlock(&lane->asking);
    return tuple_of(out, in);
}

/* Threads. */

static PyObject *attach(PyObject *self, PyObject *arguments)
{
    LaneObject *object = lane_of(self);
    int tap, udp4, udp6, ask_event, news_event;
    if (!PyArg_ParseTuple(arguments, "iiiii", &tap, &udp4, &udp6, &ask_event, &news_event))
        return NULL;
    if (object->is_attached) {
        PyErr_SetString(PyExc_ValueError, "the lane is attached already");
        return NULL;
    }
    object->lane.ask_event = ask_event;
    object->lane.news_event = news_event;
    int error = threads_start(&object->threads, &object->lane, tap, udp4, udp6, object->outbox.segments);
    if (error != 0) {
        object->lane.ask_event = object->lane.news_event = -1; /* the caller closes them, and others get their numbers */
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    object->is_attached = true;
    Py_RETURN_NONE;
}

static PyObject *detach(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    stop_threads(lane_of(self));
    Py_RETURN_NONE;
}

static PyObject *failure(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    LaneObject *object = lane_of(self);
    return PyLong_FromLong(object->is_attached ? atomic_load(&object->threads.failure) : 0);
}

static PyMethodDef lane_methods[] = {
    {"add_port", add_port, METH_VARARGS, NULL},
    {"remove_port", remove_port, METH_VARARGS, NULL},
    {"map_mac", map_mac, METH_VARARGS, NULL},
    {"unmap_mac", unmap_mac, METH_VARARGS, NULL},
    {"take_seen", take_seen, METH_NOARGS, NULL},
    {"install", install, METH_VARARGS, NULL},
    {"set_live", set_live, METH_VARARGS, NULL},
    {"retire", retire, METH_VARARGS, NULL},
    {"steer", steer, METH_VARARGS, NULL},
    {"seal", seal, METH_VARARGS, NULL},
    {"next_slice_id", next_slice_id, METH_VARARGS, NULL},
    {"handle_frames", handle_frames, METH_VARARGS, NULL},
    {"send_to", send_to, METH_VARARGS, NULL},
    {"take_datagrams", take_datagrams, METH_NOARGS, NULL},
    {"handle_datagrams", handle_datagrams, METH_VARARGS, NULL},
    {"handle_record", handle_record, METH_VARARGS, NULL},
    {"count_received", count_received, METH_VARARGS, NULL},
    {"take_frames", take_frames, METH_NOARGS, NULL},
    {"handle_timeout", handle_timeout, METH_VARARGS, NULL},
    {"next_timeout", next_timeout, METH_NOARGS, NULL},
    {"take_asks", take_asks, METH_NOARGS, NULL},
    {"is_urgent", is_urgent, METH_NOARGS, NULL},
    {"unopened", unopened, METH_NOARGS, NULL},
    {"take_traffic", take_traffic, METH_NOARGS, NULL},
    {"counters", counters, METH_VARARGS, NULL},
    {"drops", drops, METH_NOARGS, NULL},
    {"attach", attach, METH_VARARGS, NULL},
    {"detach", detach, METH_NOARGS, NULL},
    {"failure", failure, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_init, lane_object_init},
    {Py_tp_dealloc, lane_object_free},
    {Py_tp_methods, lane_methods},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "fabric.dataplane._native.Lane",
    .basicsize = sizeof(LaneObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = lane_slots,
};

static PyObject *load_provider(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    int library, suite;
    const char *path, *reason;
    char version[64];
    if (!PyArg_ParseTuple(arguments, "isi", &library, &path, &suite))
        return NULL;
#ifndef FABRIC_LADDER
    if (library == LIBRARY_NONE) { /* only a build that measures has a lane without a cipher */
        PyErr_SetString(PyExc_OSError, "this build does not go without a cipher");
        return NULL;
    }
#endif
    if (provider_count == MAX_PROVIDERS || library < 0 || library > LIBRARY_NONE ||
        (suite != SUITE_AES_256_GCM && suite != SUITE_CHACHA20_POLY1305)) {
        PyErr_SetString(PyExc_ValueError, "there is no such library or suite, or too many are loaded");
        return NULL;
    }
    const struct provider *provider = provider_load((enum library)library, path, (enum suite)suite, &reason);
    if (provider == NULL)
        return PyErr_Format(PyExc_OSError, "%s: %s", path, reason);
    providers[provider_count] = provider;
    provider_version(provider, version, sizeof version);
    return Py_BuildValue("(is)", (int)provider_count++, version);
}

static PyMethodDef module_methods[] = {
    {"load_provider", load_provider, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&lane_spec);
    if (type == NULL)
        return -1;
    int result = PyModule_AddObjectRef(module, "Lane", type);
    Py_DECREF(type);
    return result;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, fill_module},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "fabric.dataplane._native",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&module_definition);
}
