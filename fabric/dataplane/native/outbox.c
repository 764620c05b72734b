#include "lane.h"

#include <stdlib.h>

bool outbox_make_room(struct outbox *outbox, size_t bytes)
{
    if (outbox->used + bytes > outbox->size) {
        size_t size = 2 * outbox->size > outbox->used + bytes ? 2 * outbox->size : outbox->used + bytes;
        uint8_t *wider = realloc(outbox->bytes, size);
        if (wider == NULL)
            return false;
        outbox->bytes = wider;
        outbox->size = size;
    }
    if (outbox->run_count == outbox->run_size) {
        size_t size = outbox->run_size ? 2 * outbox->run_size : 16;
        struct run *more = realloc(outbox->runs, size * sizeof *more);
        if (more == NULL)
            return false;
        outbox->runs = more;
        outbox->run_size = size;
    }
    return true;
}

void outbox_clear(struct outbox *outbox)
{
    outbox->used = outbox->run_count = 0;
}

void outbox_free(struct outbox *outbox)
{
    free(outbox->bytes);
    free(outbox->runs);
    *outbox = (struct outbox){0};
}
