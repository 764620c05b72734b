#include "table.h"

#include <stdlib.h>

enum { FIRST_SLOTS = 64 };

/* Fibonacci hashing: keys are random (indices) or one authority's serial numbers (MACs), and few. */
static size_t home(const struct table *table, uint64_t key)
{
    return (size_t)(key * 0x9e3779b97f4a7c15u >> 20) & table->mask;
}

static struct slot *look(const struct table *table, uint64_t key)
{
    size_t at = home(table, key);
    while (table->slots[at].value != NULL && table->slots[at].key != key)
        at = (at + 1) & table->mask;
    return &table->slots[at];
}

void *table_find(const struct table *table, uint64_t key)
{
    return table->slots == NULL ? NULL : look(table, key)->value;
}

static bool grow(struct table *table)
{
    size_t count = table->slots == NULL ? FIRST_SLOTS : 2 * (table->mask + 1);
    struct table wider = {.slots = calloc(count, sizeof *wider.slots), .mask = count - 1, .used = table->used};
    if (wider.slots == NULL)
        return false;
    for (size_t at = 0; table->slots != NULL && at <= table->mask; at++)
        if (table->slots[at].value != NULL)
            *look(&wider, table->slots[at].key) = table->slots[at];
    free(table->slots);
    *table = wider;
    return true;
}

bool table_put(struct table *table, uint64_t key, void *value)
{
    if ((table->slots == NULL || 2 * (table->used + 1) > table->mask) && !grow(table))
        return false;
    struct slot *slot = look(table, key);
    table->used += slot->value == NULL;
    *slot = (struct slot){key, value};
    return true;
}

/* Those behind it that a search would no longer reach move up (Knuth volume 3, section 6.4, algorithm R). */
void table_remove(struct table *table, uint64_t key)
{
    if (table->slots == NULL || look(table, key)->value == NULL)
        return;
    size_t hole = (size_t)(look(table, key) - table->slots);
    table->used--;
    for (size_t at = (hole + 1) & table->mask; table->slots[at].value != NULL; at = (at + 1) & table->mask) {
        size_t from = home(table, table->slots[at].key);
        if (((at - from) & table->mask) >= ((at - hole) & table->mask)) {
            table->slots[hole] = table->slots[at];
            hole = at;
        }
    }
    table->slots[hole] = (struct slot){0};
}

void table_free(struct table *table)
{
    free(table->slots);
    *table = (struct table){0};
}
