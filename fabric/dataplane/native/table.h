/* A hash table from numbers of up to 48 bits to pointers: sessions by index, ports by MAC. Not for NULL pointers. */
#ifndef FABRIC_TABLE_H
#define FABRIC_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slot {
    uint64_t key;
    void *value; /* NULL: free */
};

struct table {
    struct slot *slots;
    size_t mask; /* number of slots less one, a power of two; 0: none as yet */
    size_t used;
};

/* Returns what stands under `key`, or NULL. */
void *table_find(const struct table *table, uint64_t key);

/* Puts `value` under `key`, in place of what stood there; false where memory is short. */
bool table_put(struct table *table, uint64_t key, void *value);

void table_remove(struct table *table, uint64_t key);

void table_free(struct table *table);

#endif
